# The manifest of a checkpoint, and the table that describes a worker's flat arrays.
# docs/checkpoint-format.md is the prose specification. Evolution: fields are only added, at the end; a change of meaning
# raises the format version that stands, outside of this schema, in front of the encoded manifest (manifest.cc).
@0xe0c1f5b98a6d2c47;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("tenax::checkpoint::schema");

enum DType {
  float32 @0;  # IEEE 754 binary32, little endian
}

struct Hash {
  # XXH3, 128 bits, seed 0.
  high @0 :UInt64;
  low @1 :UInt64;
}

struct Shard {
  # A box of one logical tensor.
  name @0 :Text;                 # logical name, the same in every layout
  kind @1 :Text;                 # "parameter", "adam_m", "adam_v", ...
  dtype @2 :DType;
  globalShape @3 :List(Int64);   # shape of the logical tensor, outermost dim first
  boxOffset @4 :List(Int64);     # one number a dim
  boxExtent @5 :List(Int64);
  offset @6 :UInt64;             # first byte in the writer's payload; 0 in a manifest
  bytes @7 :UInt64;              # of the box, row-major
}

struct ShardTable {
  # Sent once by a worker to its agent, in its registration: how to read the worker's slots.
  shards @0 :List(Shard);
}

struct Chunk {
  # `chunkBytes` consecutive bytes of a shard (the last one may be shorter).
  bytes @0 :UInt32;
  hashHigh @1 :UInt64;           # of the chunk's bytes
  hashLow @2 :UInt64;
  fileOffset @3 :UInt64;         # where in its file it begins; 0 in format 1, where it is a value of the shards database
  file @4 :UInt32;               # which of the manifest's files
  storedBytes @5 :UInt32;        # in the file: 0 = `bytes`, as they are; otherwise a zstd frame of this size
}

struct StoredShard {
  shard @0 :Shard;
  writer @1 :Text;
  part @2 :UInt32;               # which of the writer's boxes of this tensor
  hash @3 :Hash;                 # of the chunks' hashes in order, each as 16 bytes, big endian, high word first
  chunks @4 :List(Chunk);
}

struct File {
  # A file of chunks. In format 1 an SST file of the shards database, known by its key range.
  bytes @0 :UInt64;
  checksum @1 :Data;             # RocksDB's file checksum (crc32c)
  firstKey @2 :Data;
  lastKey @3 :Data;
  name @4 :Text;                 # in the folder chunks/; empty in format 1, which has the three fields before it instead
}

struct SkipWindow {
  begin @0 :Int64;
  end @1 :Int64;
}

struct ScheduleChange {
  # `setting` has `value` from firstStep to lastStep, both inclusive.
  setting @0 :Text;
  value @1 :Float64;
  firstStep @2 :Int64;
  lastStep @3 :Int64;
}

struct BranchParent {
  # `branch` left `parent` after the parent's `step`.
  branch @0 :UInt64;
  parent @1 :UInt64;
  step @2 :Int64;
}

struct Manifest {
  checkpointId @0 :UInt64;       # never reused within a store
  runId @1 :Text;
  branch @2 :UInt64;
  parents @3 :List(BranchParent);
  step @4 :Int64;                # completed optimizer steps
  generation @5 :UInt64;
  samplePosition @6 :Int64;      # first position that is not trained yet
  skipWindows @7 :List(SkipWindow);
  scheduleChanges @8 :List(ScheduleChange);
  configDigest @9 :Hash;
  dataDigest @10 :Hash;
  layout @11 :Text;              # of the run that wrote it; for people, no reader needs it
  createdNs @12 :Int64;          # UTC, nanoseconds since 1970
  runState @13 :Text;            # JSON of the controller: detector, guard, clip, loss scale
  chunkBytes @14 :UInt64;
  shards @15 :List(StoredShard);
  files @16 :List(File);
  weightsHash @17 :Hash;         # of all logical tensors, see reader.h; all zero while not computed
  arithmetic @18 :Text;          # what decided bits besides the configuration (docs/numerics.md); empty: not recorded
}
