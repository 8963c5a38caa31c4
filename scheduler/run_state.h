// RunState: all that the run controller knows, and the options that do not change within a run.
// Plain data: it is saved as JSON with every decision (run_json.h) and rebuilt from there when a
// supervisor takes over.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/run_types.h"
#include "scheduler/layout_templates.h"
#include "scheduler/restart_strategy.h"
#include "scheduler/run_commands.h"
#include "scheduler/run_events.h"
#include "scheduler/section_watch.h"
#include "scheduler/spike_monitor.h"

namespace tenax::scheduler {

struct ControllerOptions {
  Degrees degrees;  ///< the layout asked for; the run may have another (RunState::degrees)
  LayoutLimits limits;
  int zero = 0;  ///< ZeRO stage; above 0 a rank's optimizer state has no second copy in memory
  int num_agents = 1;
  int spares = 0;  ///< workers kept up beside those that train
  Duration exclusion_period = std::chrono::minutes(10);  ///< doubles with each exclusion
  std::int64_t global_batch_size = 1;
  int keep_last = 3;
  std::int64_t keep_every = 0;
  std::int64_t checkpoint_interval = 0;  ///< steps; 0: not known
  std::int64_t verify_patience = 8;  ///< counted steps after a snapshot before it may be verified
  Duration collect_window = std::chrono::milliseconds(30);
  Duration abort_timeout = std::chrono::seconds(2);
  /// For a rank that the others, who have all answered the abort of a hung step, waited for.
  Duration hang_grace = std::chrono::milliseconds(150);
  Duration form_timeout = std::chrono::seconds(30);
  Duration hang_timeout = std::chrono::seconds(30);  ///< until the times of steps are known
  SectionWatchOptions watch;
  Duration takeover_wait = std::chrono::seconds(2);
  RestartStrategy worker_restarts;
  RestartStrategy agent_restarts{RestartKind::kRestForOne};
  int max_generations_without_progress = 5;
  int max_save_failures = 5;  ///< of the final checkpoint, before the run ends without it
  SpikeMonitorOptions spikes;
  std::int64_t replay_limit = 0;  ///< steps that may be replayed to find a cause; 0: never
};

enum class Phase : std::uint8_t {
  kGathering = 0,  ///< waiting until every rank has a worker that is fresh or has stopped
  kForming = 1,    ///< the plan is out; ranks connect and take their weights
  kRunning = 2,
  kFinishing = 3,  ///< all ranks left in good order; waiting for the last checkpoint
  kFinished = 4,
};
std::string_view to_string(Phase phase);

enum class SeatState : std::uint8_t {
  kAbsent = 0,    ///< no process
  kSpawning = 1,  ///< ordered, not yet up
  kFresh = 2,     ///< up, holds nothing
  kPlanned = 3,   ///< has a plan of the current generation
  kTraining = 4,  ///< formed
  kStopped = 5,   ///< left the loop, holds `held`
  kFinished = 6,  ///< left the loop in good order
  kLeaving = 7,   ///< told to leave its generation, has not answered
};
std::string_view to_string(SeatState state);

/// A place for a worker, and the worker that has it. The place outlives processes; which rank it
/// plays is decided anew for each generation.
struct Seat {
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  int rank = -1;         ///< in the newest plan; -1: a spare
  bool retired = false;  ///< the run was scaled down: no worker is started here any more
  std::uint64_t incarnation = 0;
  std::uint32_t pid = 0;
  SeatState state = SeatState::kAbsent;
  RankState held;
  int restarts = 0;
  std::int64_t finished_step = 0;
  FinishCause finish_cause = FinishCause::kDone;
  std::optional<Time> spawned_at;  ///< while kSpawning
  std::optional<Time> spawn_at;    ///< a restart held back by the strategy's backoff
  std::string device_trouble;      ///< the newest with the place's GPU; empty: none
};

struct AgentState {
  std::uint64_t incarnation = 0;
  std::uint32_t pid = 0;
  std::string host;
  bool up = false;
  std::optional<Time> spawned_at;  ///< while it has not joined
  bool asked = false;              ///< after a takeover: it may still answer
  int restarts = 0;
  RestartHistory history;
  RestartHistory worker_history;
  bool joined = false;                 ///< it came by itself and cannot be started again from here
  std::string token;                   ///< of one that joined
  bool draining = false;               ///< its workers leave at the next boundary
  bool gone = false;                   ///< for good
  std::optional<Time> excluded_until;  ///< failed too often
  int exclusions = 0;
};

/// Whether a run plans with the workers of this agent.
inline bool usable(const AgentState& agent) {
  return !agent.draining && !agent.gone && !agent.excluded_until;
}

struct BranchInfo {
  std::uint64_t id = 0;
  std::uint64_t parent = 0;  ///< equal to id for the root
  std::int64_t step = 0;     ///< it left its parent after this step
};

struct CheckpointInfo {
  std::uint64_t id = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint64_t generation = 0;
  bool committing = false;
  bool committed = false;
  bool read_back = false;  ///< every byte was read again and hashed right
  bool sound =
      true;  ///< the detector was calm when it was taken, and no onset was placed before it since
  bool verified = false;
  bool quarantined = false;  ///< could not be read back; never a source again
  std::uint64_t bytes = 0;
  double seconds = 0;
  std::map<std::uint32_t, std::string>
      shards;        ///< by rank: digest of what it holds, while being written
  GuardState guard;  ///< after `step`
};

/// How much a reason to leave a generation says about its cause: a dead process outranks the broken
/// connections of its peers, which are only evidence.
enum EvidenceStrength : int {
  kEvidenceCollective = 1,
  kEvidenceHang = 2,
  kEvidenceProcess = 3,
  kEvidenceDecision = 4
};

/// Steps are being computed again before a decision is carried out; nobody trains meanwhile.
struct PendingReplay {
  enum class Cause : std::uint8_t {
    kSpike = 0,     ///< `decision` follows unless a device is found to be the cause
    kReplicas = 1,  ///< data-parallel replicas hold different bytes
    kReports = 2,   ///< reports without a loss
  };
  std::uint64_t id = 0;
  Cause cause = Cause::kSpike;
  SpikeDecision decision;
  std::uint64_t checkpoint_id = 0;
  std::int64_t from = 0;
  std::int64_t to = 0;
  bool tokens_damaged = false;  ///< an earlier try found the token file damaged and ended the run
};

/// A step that was replayed after a restore and is not what was journalled.
struct ReplayDispute {
  std::int64_t step = 0;
  std::uint64_t loss = 0;  ///< its bits, as replayed
  std::uint64_t grad_norm = 0;
  std::uint64_t checkpoint_id = 0;  ///< from which; 0: the initial weights
};

struct RunState {
  std::uint64_t term = 0;
  std::uint64_t generation = 0;
  std::uint64_t branch = 0;
  std::uint64_t next_branch = 1;
  std::uint64_t next_incarnation = 1;
  std::int64_t next_command = 1;
  Phase phase = Phase::kGathering;
  std::int64_t total_steps = 0;
  std::int64_t counted_step = 0;  ///< newest step whose report is journalled on this branch
  std::uint64_t last_progress_generation = 0;
  std::vector<Seat> seats;
  Degrees degrees;              ///< of the newest plan
  Degrees target;               ///< what the run has when nothing is missing
  bool retire_surplus = false;  ///< after the next plan: the run was scaled down
  std::string regroup;  ///< why all ranks were told to leave at a boundary; empty: they were not
  std::vector<AgentState> agents;  ///< by agent id
  std::vector<BranchInfo> branches;
  std::vector<CheckpointInfo> checkpoints;
  std::vector<SkipWindow> skip_windows;
  std::vector<Softening> softenings;
  SpikeMonitorState spikes;
  std::optional<PendingReplay> replay;
  std::uint64_t next_replay = 1;
  std::optional<ReplayDispute> dispute;
  /// This generation replays steps with another learning rate than they had: the configuration was
  /// changed since, so their numbers say nothing about restores and devices.
  bool replays_another_schedule = false;
  std::int64_t load_before = -1;  ///< the next plan loads a checkpoint of an earlier step; -1: any
  std::uint64_t loaded_checkpoint = 0;  ///< by the newest plan; 0: the initial weights
  std::int64_t loaded_step = -1;        ///< of it; -1: the newest plan loaded none

  std::optional<Time> fault_at;  ///< first of the faults being collected
  std::string culprit;           ///< what began it, by the strongest evidence so far
  int culprit_strength = 0;
  std::optional<Time> deadline;    ///< of the current phase
  std::optional<Time> aborted_at;  ///< while ranks are told to leave their generation
  std::optional<Time> last_progress_at;
  SectionWatchState watch;
  std::optional<Time> last_report_at;           ///< from which the next report's time is measured
  std::optional<Time> setup_began;              ///< of a generation whose weights are in memory
  std::int64_t newest_report_step = 0;          ///< counted or replayed
  bool first_of_generation = true;              ///< no step of it was reported yet
  std::int64_t hashes_step = -1;                ///< of the hashes being compared
  std::map<std::uint32_t, std::string> hashes;  ///< by rank
  bool distrust_memory = false;  ///< replicas differed: the next plan takes nothing from memory
  std::map<int, std::vector<FlightNote>> flights;  ///< by rank, of the generation that ended
  bool stop_requested = false;
  bool stop_issued = false;
  StopKind stop_kind = StopKind::kGraceful;
  int restarts = 0;
  int rollbacks = 0;
  int device_troubles = 0;              ///< that workers reported of their GPUs
  int save_failures = 0;                ///< since a step was counted or a checkpoint committed
  std::uint64_t failed_checkpoint = 0;  ///< the newest one of which a share could not be written
  std::int64_t failed_step = -1;        ///< of this generation's newest failed save; -1: none
  std::string save_error;               ///< of the newest failed save
  int exit_code = -1;
  std::string finish_reason;
  std::string config_digest;
};

}  // namespace tenax::scheduler
