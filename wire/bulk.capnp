# Bulk transfer of slot contents: an agent copies its workers' sealed slots to its buddy, another agent in another
# failure domain; a worker that has lost its memory fetches them back. On sockets of their own, so that no heartbeat waits
# behind a gigabyte. docs/protocol.md tells the story.
#
# Flow control: the receiver of pieces grants credits. A copying agent sends one piece for each credit it was given; a
# fetching worker has as many requests in flight as it can take. So neither side ever holds more than a few pieces.
@0xb7c2d85f13e9a046;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("tenax::wire::schema");

struct Bulk {
  runId @0 :Text;                # the run's secret; a frame without it is dropped

  union {
    offer @1 :Offer;             # agent -> buddy: a sealed slot is to be copied
    credit @2 :Credit;           # buddy -> agent: so many more pieces may be sent
    piece @3 :Piece;             # agent -> buddy
    seal @4 :Seal;               # agent -> buddy: that was all of it
    stored @5 :Stored;           # buddy -> agent: the copy is complete and has the right hash, or why not
    fetch @6 :Fetch;             # worker -> buddy: a range of a copy
    fetched @7 :Fetched;         # buddy -> worker
  }
}

struct SlotId {
  # A worker's place, and what its slot held.
  agent @0 :UInt32;
  slot @1 :UInt32;
  branch @2 :UInt64;
  step @3 :Int64;
}

struct Offer {
  transfer @0 :UInt64;           # chosen by the sender; rises
  id @1 :SlotId;
  generation @2 :UInt64;
  incarnation @3 :UInt64;        # of the worker that sealed the slot
  payloadBytes @4 :UInt64;
}

struct Credit {
  transfer @0 :UInt64;
  pieces @1 :UInt32;
}

struct Piece {
  transfer @0 :UInt64;
  offset @1 :UInt64;
  bytes @2 :Data;
}

struct Seal {
  transfer @0 :UInt64;
  hashHigh @1 :UInt64;           # XXH3-128 of the whole payload
  hashLow @2 :UInt64;
}

struct Stored {
  transfer @0 :UInt64;
  error @1 :Text;                # empty: done
}

struct Fetch {
  request @0 :UInt64;            # chosen by the worker, comes back in the answer
  id @1 :SlotId;
  offset @2 :UInt64;
  bytes @3 :UInt32;
}

struct Fetched {
  request @0 :UInt64;
  error @1 :Text;                # "no copy of step 20", ...; empty: here are the bytes
  bytes @2 :Data;
  payloadBytes @3 :UInt64;       # of the whole copy
}
