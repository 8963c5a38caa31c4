// One call of RunController::decide(): the state being changed and the commands so far. Internal to
// scheduler/; split over run_decision_membership.cc (start, takeover, agents, workers),
// run_decision_elastic.cc (fewer and more workers), run_decision_generation.cc (from one generation
// to the next), run_decision_progress.cc (steps, checkpoints, the end), run_decision_spikes.cc
// (what is done about spikes) and run_decision_replay.cc (steps computed a second time).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/run_commands.h"
#include "scheduler/run_events.h"
#include "scheduler/run_state.h"

namespace tenax::scheduler {

/// How long the step being trained may take.
SectionLimit step_limit(const RunState& state, const ControllerOptions& options);

/// Lives for one event; holds references to the caller's state and options.
class Decision {
 public:
  Decision(RunState& state, const ControllerOptions& options, Time now)
      : s_(state), o_(options), now_(now) {}

  std::vector<Command> take() { return std::move(commands_); }

  void on(const SupervisorStarted& e);
  void on(const AgentJoined& e);
  void on(const AgentLost& e);
  void on(const WorkerUp& e);
  void on(const WorkerExited& e);
  void on(const RankFormed& e);
  void on(const RankStopped& e);
  void on(const RankFinished& e);
  void on(const StepReported& e);
  void on(const ShardWritten& e);
  void on(const ShardFailed& e);
  void on(const CommitEnded& e);
  void on(const VerifyEnded& e);
  void on(const StopRequested& e);
  void on(const TimerFired& e);
  void on(const CheckpointImported& e);
  void on(const PruneRequested& e);
  void on(const AgentAsked& e);
  void on(const DrainRequested& e);
  void on(const ScaleRequested& e);
  void on(const ShardHashed& e);
  void on(const PaceChanged& e);
  void on(const RollbackRequested& e);
  void on(const ReplayEnded& e);
  void on(const DeviceReported& e);

 private:
  template <class... Args>
  void note(Severity severity, fmt::format_string<Args...> format, Args&&... args) {
    commands_.push_back(Note{severity, fmt::format(format, std::forward<Args>(args)...)});
  }
  void issue(Command command) { commands_.push_back(std::move(command)); }
  void finish(int exit_code, std::string reason);

  bool active() const {
    return s_.phase == Phase::kForming || s_.phase == Phase::kRunning ||
           s_.phase == Phase::kFinishing;
  }
  Seat* seat_of(std::uint32_t agent, std::uint32_t slot, std::uint64_t incarnation);
  /// The seat that a rank's message is about; null if it is not the one in the newest plan.
  Seat* seat_of_rank(std::uint32_t rank, std::uint64_t worker);
  /// "rank 3", or "spare of agent 1, slot 0".
  std::string name_of_seat(const Seat& seat) const;
  bool wanted(const Seat& seat) const { return !seat.retired && usable(s_.agents[seat.agent]); }
  static bool ready(const Seat& seat) {
    return seat.state == SeatState::kFresh || seat.state == SeatState::kStopped;
  }
  bool plays(std::uint32_t agent) const;  ///< has a rank of the newest plan

  void first_start();
  void take_over(const SupervisorStarted& e);
  void finish_takeover();
  /// Nothing of the run is alive: whoever starts it again has seen to its hosts.
  void forgive_agents();
  void spawn_agent(std::uint32_t agent);
  void spawn_worker(Seat& seat);
  void end_late_starters();
  void restart_worker(Seat& seat);
  void lose_agent(std::uint32_t agent, const std::string& evidence);

  std::optional<Degrees> layout_for(int workers) const;
  int count_wanted() const;
  int count_wanted_without(std::uint32_t agent) const;
  void add_seats(std::uint32_t agent, int count);
  void exclude(std::uint32_t agent, const std::string& reason);
  void readmit_excluded();
  void consider_regroup();
  void release_drained();
  void retire_surplus();
  /// Workers again where the run was scaled down; returns how many are still missing.
  int revive_retired(int missing);
  void start_missing_workers(int missing);

  void begin_gathering(const std::string& reason, EvidenceStrength strength);
  void blame(const std::string& reason, EvidenceStrength strength);
  void try_start();
  void count(const StepReport& report);
  void note_progress(const StepReport& report);
  void name_culprit();
  /// Once the others have answered the abort of a hung step, the rank that they waited for has
  /// little time left.
  void hurry_the_hung();
  void compare_replay(const StepReport& report);
  void roll_back(const SpikeDecision& decision);
  void tell_guard(const StepReport& report);
  void suspect(int rank, const std::string& evidence);
  void keep_samples(std::int64_t first_step, std::int64_t last_step);
  /// False if nothing can be replayed: then the caller acts at once.
  bool start_replay(PendingReplay::Cause cause, const SpikeDecision& d);
  void issue_replay();
  /// A gradient norm that no data makes, twice the same: a wrong weight, even if the loss is
  /// normal.
  bool check_implausible_norm(const StepReport& report);
  void blame_device(const PendingReplay& replay, const ReplayEnded& e);
  /// If the run can do without it.
  void exclude_faulty(std::uint32_t agent);
  void go_back_without_skipping(std::int64_t step, std::string reason);
  void replicas_differ(std::int64_t step, const std::string& evidence);
  void load_older(const std::string& reason);
  void command_stop();
  void check_finished();
  void save_failed(std::int64_t step, const std::string& error);
  void save_last_again();
  void warn_of_full_disk(const CommitEnded& e);

  RunState& s_;
  const ControllerOptions& o_;
  Time now_;
  std::vector<Command> commands_;
};

}  // namespace tenax::scheduler
