# The control protocol between supervisor, agents and workers. docs/protocol.md tells the story; this file is the
# contract. Every frame is one Envelope. A receiver drops, without any effect, an envelope whose term, generation or
# incarnation is older than what it knows (invariant G2).
#
# Evolution: fields are only added; a receiver ignores union members it does not know.
@0xd3a1f6b2c4e59871;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("tenax::wire::schema");

struct Envelope {
  runId @0 :Text;                # set by everyone; a frame of another run is dropped
  term @1 :UInt64;               # of the supervisor that sent it, or that the sender last heard
  generation @2 :UInt64;         # the membership the sender knows
  agent @3 :UInt32;              # which agent sends, or whose worker sends
  agentIncarnation @4 :UInt64;
  slot @5 :UInt32;               # which worker slot of the agent a worker message is from or for
  workerIncarnation @6 :UInt64;  # 0 in messages that concern no worker

  union {
    agentHello @7 :AgentHello;           # agent -> supervisor: first message of a session, and again to a new term
    heartbeat @8 :Heartbeat;             # agent -> supervisor, every heartbeat_interval
    workerUp @9 :WorkerUp;               # worker -> agent -> supervisor: process is up, has no plan
    workerExited @10 :WorkerExited;      # agent -> supervisor: pidfd fired; the process is gone for certain
    rankFormed @11 :RankFormed;          # worker -> supervisor: weights in place, first step begins
    stepDone @12 :StepReport;            # worker -> agent -> supervisor: agents send each (branch, step) once, and
                                         # keep it until reportAck
    rankStopped @13 :RankStopped;        # worker -> supervisor: left the loop after an error or an abort
    rankFinished @14 :RankFinished;      # worker -> supervisor: left the loop in good order
    snapshotSealed @15 :SnapshotSealed;  # worker -> agent: a slot is complete, write it out
    shardWritten @16 :ShardWritten;      # agent -> supervisor: one rank's share of a checkpoint is in staging, synced
    shardFailed @17 :ShardFailed;        # agent -> supervisor: it could not be written
    rendezvous @18 :Rendezvous;          # worker -> supervisor -> all workers of the generation

    welcome @19 :Void;                   # supervisor -> agent: answer to agentHello; the term to use from now on
    spawnWorker @20 :Void;               # supervisor -> agent: start slot with workerIncarnation
    killWorker @21 :Text;                # supervisor -> agent: SIGKILL; the text is the reason for the log
    planFor @22 :PlanFor;                # supervisor -> agent -> worker: start this generation as this rank
    abort @23 :Abort;                    # supervisor -> agents -> workers: leave every older generation now
    workerCommand @24 :WorkerCommand;    # supervisor -> agents -> workers: numbered, obeyed at one boundary
    reportAck @25 :ReportAck;            # supervisor -> agents: reports up to here are journalled
    checkpointClosed @26 :CheckpointClosed;  # supervisor -> agents -> workers: slot may be reused
    shutdown @27 :Text;                  # supervisor -> agent -> worker: end your process; the text is the reason

    joinRequest @28 :JoinRequest;        # agent that nobody started -> supervisor, repeated until the answer comes
    shardHash @30 :ShardHash;            # worker -> agent -> supervisor: every integrity_interval steps
    pace @32 :Float64;                   # worker -> agent: seconds of its newest step without its waits
    deviceReport @33 :DeviceReport;      # worker -> agent -> supervisor: trouble with its GPU. Where the worker ends over
                                         # it the agent passes it on and answers with shutdown
    leaving @31 :Text;                   # agent that joined -> supervisor: it wants to end; the text is the reason
    admitted @29 :Admitted;              # supervisor -> that agent: be agent (with agentIncarnation), or why not
  }
}

struct AgentHello {
  pid @0 :UInt32;
  host @1 :Text;
  numSlots @2 :UInt32;
  workers @3 :List(WorkerInfo);

  struct WorkerInfo {
    slot @0 :UInt32;
    incarnation @1 :UInt64;
    pid @2 :UInt32;
    rank @3 :Int32;            # -1 = has no plan
    generation @4 :UInt64;     # of its plan
    training @5 :Bool;         # formed and not stopped
    up @6 :Bool = true;        # it has spoken: what is sent to it arrives
  }
}

struct JoinRequest {
  token @0 :Text;              # random, its own: asking again gives the same place
  pid @1 :UInt32;
  host @2 :Text;
  numSlots @3 :UInt32;         # workers it will run
}

struct Admitted {
  token @0 :Text;
  refusal @1 :Text;            # why it may not join; empty: it may, and says agentHello next
}

struct Heartbeat {
  sequence @0 :UInt64;
  paces @1 :List(WorkerPace);  # of the workers that train

  struct WorkerPace {
    rank @0 :UInt32;
    busySeconds @1 :Float64;   # of a step, waits left out; moving average of some 20 steps
    pastSeconds @2 :Float64;   # of some 200
    steps @3 :Int64;           # that the averages are over
  }
}

struct WorkerUp {
  pid @0 :UInt32;
}

struct WorkerExited {
  pid @0 :UInt32;
  status @1 :Text;             # "killed by signal 9 (Killed)", "exited with 3"
  expected @2 :Bool;           # after shutdown or killWorker
  logTail @3 :Text;            # the last lines of its log, unless expected
}

struct RankFormed {
  rank @0 :UInt32;
  step @1 :Int64;
  source @2 :Text;             # which tier served which bytes, a sentence
  seconds @3 :Float64;         # since it had the plan
  restoreSeconds @4 :Float64;  # of these, putting the weights in place
  tiers @5 :List(Tier);        # the same as numbers
  rejected @6 :Text;           # a nearer source that had other bytes than the manifest says, and was not used; mostly empty

  struct Tier {
    name @0 :Text;             # "memory", "slot", "peer", "buddy", "store", "seed"
    bytes @1 :UInt64;
  }
}

struct StepReport {
  branch @0 :UInt64;
  step @1 :Int64;
  loss @2 :Float64;
  gradNorm @3 :Float64;
  learningRate @4 :Float64;
  tokens @5 :Int64;
  positionBegin @6 :Int64;
  positionEnd @7 :Int64;
  update @8 :UInt8;
  hasEval @9 :Bool;
  evalLoss @10 :Float64;
  seconds @11 :Float64;
  clipNorm @12 :Float64;
  held @13 :UInt8;
  suspectRank @14 :Int32 = -1;
  replicaLosses @15 :List(Float64);
  snapshotSeconds @16 :Float64;  # that training waited for a snapshot since the report before
}

struct GuardState {
  samples @0 :Int64;
  normLevel @1 :Float64;
  normMean @2 :Float64;
  normVariance @3 :Float64;
  quietUntil @4 :Int64;
}

struct RankState {
  hasWeights @0 :Bool;
  branch @1 :UInt64;
  lastApplied @2 :Int64;
  gradientsReady @3 :Int64;
  verdictKnown @4 :Bool;
  verdict @5 :StepReport;
  reports @6 :List(StepReport);
  rank @7 :Int32 = -1;         # whose shard the weights are, in the layout dp x tp x pp
  dp @8 :UInt32 = 1;
  tp @9 :UInt32 = 1;
  pp @10 :UInt32 = 1;
}

struct RankStopped {
  rank @0 :Int32;
  state @1 :RankState;
  reason @2 :Text;             # evidence, not verdict: "recv from rank 3: connection closed by peer"
  badCheckpoint @3 :UInt64;    # a checkpoint that could not be read back; 0 = none
  flight @4 :List(FlightNote); # its last transfers: who waited for whom

  struct FlightNote {
    sequence @0 :UInt64;
    operation @1 :Text;
    within @2 :Text;
    peer @3 :Int32;
    bytes @4 :UInt64;
    state @5 :Text;
    seconds @6 :Float64;
  }
}

struct RankFinished {
  rank @0 :UInt32;
  step @1 :Int64;
  cause @2 :UInt8;
}

struct SnapshotSealed {
  rank @0 :UInt32;
  branch @1 :UInt64;
  step @2 :Int64;
  slotIndex @3 :UInt8;
  table @4 :Data;              # checkpoint/slot.h: which tensor shards lie where in the slot
  writes @5 :List(UInt32);     # entries of the table this rank writes; replicas share the work
  replicatedBytes @6 :UInt64;  # the payload's first so many bytes are equal on all data-parallel replicas
}

struct ShardWritten {
  rank @0 :UInt32;
  branch @1 :UInt64;
  step @2 :Int64;
  checkpointId @3 :UInt64;
  shard @4 :Data;              # checkpoint/shard_writer.h: files, hashes, where every byte lies
  bytes @5 :UInt64;
  seconds @6 :Float64;
  digest @7 :Text;             # hash of what replicas hold alike of the slot payload, compared between them
}

struct ShardHash {
  rank @0 :UInt32;
  branch @1 :UInt64;
  step @2 :Int64;
  hash @3 :Text;               # of parameters and optimizer state after the step; equal on replicas
}

struct DeviceReport {
  rank @0 :Int32;
  trouble @1 :UInt8;           # 0 fault of the device, 1 out of memory, 2 NCCL, 3 health
  text @2 :Text;               # the GPU, what failed, what NVML says
  ends @3 :Bool;               # the worker can do nothing more with it and waits for shutdown
}

struct ShardFailed {
  rank @0 :UInt32;
  branch @1 :UInt64;
  step @2 :Int64;
  checkpointId @3 :UInt64;
  error @4 :Text;
}

struct Rendezvous {
  generation @0 :UInt64;
  key @1 :Text;
  value @2 :Data;
}

struct Softening {
  first @0 :Int64;
  last @1 :Int64;
  factor @2 :Float64;
}

struct Plan {
  generation @0 :UInt64;
  branch @1 :UInt64;
  step @2 :Int64;
  totalSteps @3 :Int64;
  dp @4 :UInt32;
  tp @5 :UInt32;
  pp @6 :UInt32;
  sources @7 :List(Source);
  checkpointId @8 :UInt64;
  checkpointBranch @9 :UInt64;
  hasHalfStep @10 :Bool;
  halfStep @11 :StepReport;
  skipWindows @12 :List(Window);
  softenings @13 :List(Softening);
  guard @14 :GuardState;       # what the step guard knows after `step`

  struct Source {
    kind @0 :UInt8;
    peer @1 :Int32;
  }
  struct Window {
    begin @0 :Int64;
    end @1 :Int64;
  }
}

struct PlanFor {
  rank @0 :UInt32;
  plan @1 :Plan;
  config @2 :Text;             # the run's canonical configuration (TOML)
}

struct Abort {
  generation @0 :UInt64;       # everything older ends; the answer is rankStopped under this generation
  countedStep @1 :Int64;       # the answer carries the reports of later steps
  reason @2 :Text;
}

struct WorkerCommand {
  number @0 :Int64;
  kind @1 :UInt8;
}

struct ReportAck {
  branch @0 :UInt64;
  step @1 :Int64;
}

struct CheckpointClosed {
  branch @0 :UInt64;
  step @1 :Int64;
  committed @2 :Bool;          # false: given up; the slot is free all the same
}
