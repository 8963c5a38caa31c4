// Everything that can happen to a run, as values. An event is journalled with the commands decided
// on it before any of them acts. Fences are checked by the controller: an event of an older
// generation or incarnation changes nothing (G2).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/run_types.h"

namespace tenax::scheduler {

/// A supervisor holds the run's lock and begins (or goes on) deciding.
struct SupervisorStarted {
  std::uint64_t term = 0;
  std::int64_t total_steps = 0;             ///< may have been changed for this start
  std::vector<std::string> config_changes;  ///< "train.steps: 200 -> 400", against the last start
  std::vector<std::uint64_t> manifests;     ///< checkpoints that the store has
  std::vector<std::uint32_t> agents_alive;  ///< agents whose processes still run and may answer
};

/// "fault", "out of memory", ...
std::string_view to_string(DeviceTrouble trouble);

struct WorkerSeen {
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t pid = 0;
  std::int32_t rank = -1;
  std::uint64_t generation = 0;
  bool training = false;
  bool up = true;  ///< it has spoken: what is sent to it arrives
};
/// An agent introduced itself, with the workers it has.
struct AgentJoined {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t pid = 0;
  std::string host;
  std::uint32_t num_slots = 0;
  std::vector<WorkerSeen> workers;
};
/// Its process ended, or it was silent for too long.
struct AgentLost {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  std::string evidence;
};

/// A worker process is up and waits for a plan.
struct WorkerUp {
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t pid = 0;
};
/// A worker process is gone for certain (pidfd).
struct WorkerExited {
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  std::string status;
  std::string log_tail = {};  ///< the last lines that it logged; may be empty
};

/// A rank has its weights in place and begins to train.
struct RankFormed {
  std::uint32_t rank = 0;
  std::uint64_t generation = 0;
  std::int64_t step = 0;
  std::string source;
  double seconds = 0;
  std::uint64_t worker = 0;    ///< incarnation; 0: not said, the rank's seat is meant
  double restore_seconds = 0;  ///< of these, putting the weights in place
  /// That each tier served: memory, slot, peer, buddy, store, seed.
  std::map<std::string, std::uint64_t> bytes = {};
  std::string rejected = {};  ///< nearer sources with other bytes than the manifest's; mostly empty
};
/// A rank left its loop after an error or an abort and says what it holds.
struct RankStopped {
  std::uint32_t rank = 0;
  std::uint64_t generation = 0;
  RankState state;
  std::string reason;
  std::uint64_t bad_checkpoint = 0;     ///< a checkpoint that it could not read back; 0: none
  std::uint64_t worker = 0;             ///< as in RankFormed
  std::vector<FlightNote> flight = {};  ///< its last transfers
};
/// A rank left its loop in good order.
struct RankFinished {
  std::uint32_t rank = 0;
  std::uint64_t generation = 0;
  std::int64_t step = 0;
  FinishCause cause = FinishCause::kDone;
  std::uint64_t worker = 0;  ///< as in RankFormed
};
struct StepReported {
  std::uint64_t generation = 0;
  StepReport report;
};

/// One rank's share of a checkpoint is in the staging folder, synced.
struct ShardWritten {
  std::uint32_t rank = 0;
  std::uint64_t generation = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint64_t checkpoint_id = 0;
  std::uint64_t bytes = 0;
  double seconds = 0;
  std::string digest;  ///< of everything the rank holds; equal on data-parallel replicas
};
struct ShardFailed {
  std::uint32_t rank = 0;
  std::uint64_t generation = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint64_t checkpoint_id = 0;
  std::string error;
};
/// The answer to a CommitCheckpoint. On success the manifest is durable.
struct CommitEnded {
  std::uint64_t checkpoint_id = 0;
  bool ok = false;
  std::string error;
  std::uint64_t bytes = 0;
  std::uint64_t free_bytes = 0;  ///< of the store's file system afterwards; 0: not known
};
/// The answer to a VerifyCheckpoint: every byte was read back and hashed.
struct VerifyEnded {
  std::uint64_t checkpoint_id = 0;
  bool ok = false;
  std::string error;
};

/// kGraceful: finish the step, checkpoint, leave. kPreempt: the same with the requeue code.
enum class StopKind : std::uint8_t { kGraceful = 0, kPreempt = 1 };
struct StopRequested {
  StopKind kind = StopKind::kGraceful;
  std::string by;  ///< "signal 2 (Interrupt)", "tenax stop"
};

/// The run begins with weights from elsewhere: a committed checkpoint of step 0 that was read back.
struct CheckpointImported {
  std::uint64_t checkpoint_id = 0;
  std::uint64_t bytes = 0;
  std::string source;  ///< where the weights come from
};
/// The operator, who holds the store, wants fewer checkpoints than the configuration keeps.
struct PruneRequested {
  int keep_last = 1;
  std::vector<std::uint64_t> in_use;  ///< checkpoints that readers hold
  std::string by;
};

/// An agent that nobody started wants to take part. It repeats this until it is admitted.
struct AgentAsked {
  std::string token;  ///< its own, random: the same agent asking again gets the same answer
  std::string host;
  std::uint32_t pid = 0;
  std::uint32_t num_slots = 0;  ///< workers it will run
};
/// The operator wants an agent's host free: its workers leave at a step boundary.
struct DrainRequested {
  std::uint32_t agent = 0;
  std::string by;
};
/// The operator wants another layout from the next boundary on.
struct ScaleRequested {
  Degrees target;
  std::string by;
};

/// A rank's hash of its parameters and optimizer state after a step; replicas must have the same.
struct ShardHashed {
  std::uint32_t rank = 0;
  std::uint64_t generation = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::string hash;
};

/// A rank began to hold the others up, or no longer does.
struct PaceChanged {
  std::uint32_t rank = 0;
  std::uint64_t generation = 0;
  bool straggles = false;
  double score = 1;
  std::string text;  ///< the numbers, a sentence
};

/// A worker has trouble with its GPU.
struct DeviceReported {
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  DeviceTrouble trouble = DeviceTrouble::kFault;
  std::string text;   ///< the GPU, what failed, what its driver says beside it
  bool ends = false;  ///< the worker can do nothing more with it and ends
};

/// The operator wants the run to go back, whatever the detector says. Steps are those of the
/// current branch.
struct RollbackRequested {
  std::int64_t to = 0;          ///< the last step that stays
  std::int64_t skip_first = 0;  ///< samples of these steps are never trained again; inclusive
  std::int64_t skip_last = -1;  ///< before skip_first: none
  double lr_factor = 1;         ///< of the learning rate, for `lr_steps` steps from to + 1 on
  std::int64_t lr_steps = 0;
  std::string by;
};

/// The answer to a ReplaySteps: how the steps computed again compare with the journal.
struct ReplayEnded {
  std::uint64_t id = 0;
  std::int64_t compared = 0;         ///< steps that agree
  std::int64_t difference_step = 0;  ///< the first step that does not; 0: none
  std::int32_t replica = -1;         ///< whose loss alone differs there; -1: another number, or all
  std::string detail;                ///< the difference, with its numbers
  std::string error;                 ///< why nothing could be compared; empty if it could
  bool tokens_damaged = false;       ///< with `error`: the token file is not what was written
  double spread = 0;  ///< of those that agree, the largest relative difference; 0: bit for bit
};

/// The deadline that next_deadline() named has come.
struct TimerFired {};

using Event =
    std::variant<SupervisorStarted, AgentJoined, AgentLost, WorkerUp, WorkerExited, RankFormed,
                 RankStopped, RankFinished, StepReported, ShardWritten, ShardFailed, CommitEnded,
                 VerifyEnded, StopRequested, TimerFired, CheckpointImported, PruneRequested,
                 AgentAsked, DrainRequested, ScaleRequested, ShardHashed, PaceChanged,
                 RollbackRequested, ReplayEnded, DeviceReported>;

}  // namespace tenax::scheduler
