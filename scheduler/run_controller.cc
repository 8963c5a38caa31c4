#include "scheduler/run_controller.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "scheduler/checkpoint_decisions.h"
#include "scheduler/exit_code.h"
#include "scheduler/layout.h"
#include "scheduler/recovery_plan.h"

namespace tenax::scheduler {

std::string_view to_string(Phase phase) {
  switch (phase) {
    case Phase::kGathering:
      return "gathering";
    case Phase::kForming:
      return "forming";
    case Phase::kRunning:
      return "running";
    case Phase::kFinishing:
      return "finishing";
    case Phase::kFinished:
      return "finished";
  }
  return "unknown";
}

std::string_view to_string(SeatState state) {
  switch (state) {
    case SeatState::kAbsent:
      return "absent";
    case SeatState::kSpawning:
      return "spawning";
    case SeatState::kFresh:
      return "fresh";
    case SeatState::kPlanned:
      return "forming";
    case SeatState::kTraining:
      return "training";
    case SeatState::kStopped:
      return "stopped";
    case SeatState::kFinished:
      return "finished";
    case SeatState::kLeaving:
      return "leaving";
  }
  return "unknown";
}

bool on_ancestry(const RunState& state, std::uint64_t branch, std::int64_t step) {
  std::uint64_t current = state.branch;
  std::int64_t limit = step;  // no limit on the current branch itself
  while (true) {
    if (current == branch) return step <= limit;
    const auto info = std::find_if(state.branches.begin(), state.branches.end(),
                                   [&](const BranchInfo& b) { return b.id == current; });
    if (info == state.branches.end() || info->parent == current) return false;
    limit = std::min(current == state.branch ? info->step : limit, info->step);
    current = info->parent;
  }
}

const CheckpointInfo* newest_checkpoint(const RunState& state, std::int64_t step) {
  const CheckpointInfo* best = nullptr;
  for (const CheckpointInfo& c : state.checkpoints) {
    if (!c.committed || c.quarantined || c.step > step || !on_ancestry(state, c.branch, c.step))
      continue;
    if (best == nullptr || c.step > best->step || (c.step == best->step && c.id > best->id))
      best = &c;
  }
  return best;
}

namespace {

/// One call of decide(): the state being changed and the commands so far.
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
  int rank_of_seat(const Seat& seat) const { return static_cast<int>(&seat - s_.seats.data()); }

  void first_start();
  void take_over(const SupervisorStarted& e);
  void finish_takeover();
  void spawn_agent(std::uint32_t agent);
  void spawn_worker(Seat& seat);
  void restart_worker(Seat& seat);
  void lose_agent(std::uint32_t agent, const std::string& evidence);

  void begin_gathering(const std::string& reason);
  void try_start();
  void count(const StepReport& report);
  void compare_replay(const StepReport& report);
  void roll_back(const SpikeDecision& decision);
  void command_stop();
  void check_finished();
  void save_failed(const std::string& error);

  RunState& s_;
  const ControllerOptions& o_;
  Time now_;
  std::vector<Command> commands_;
};

void Decision::finish(int exit_code, std::string reason) {
  if (s_.phase == Phase::kFinished) return;
  s_.phase = Phase::kFinished;
  s_.exit_code = exit_code;
  s_.finish_reason = reason;
  s_.deadline.reset();
  issue(Finish{exit_code, std::move(reason)});
}

Seat* Decision::seat_of(std::uint32_t agent, std::uint32_t slot, std::uint64_t incarnation) {
  for (Seat& seat : s_.seats) {
    if (seat.agent == agent && seat.slot == slot) {
      return seat.incarnation == incarnation ? &seat : nullptr;
    }
  }
  return nullptr;
}

// --- Start and takeover
// -----------------------------------------------------------------------------------------

void Decision::on(const SupervisorStarted& e) {
  s_.term = e.term;
  s_.total_steps = e.total_steps;
  if (s_.seats.empty()) {
    first_start();
  } else {
    take_over(e);
  }
}

void Decision::first_start() {
  const int world = o_.degrees.world_size();
  s_.agents.resize(o_.num_agents);
  for (int rank = 0; rank < world; ++rank) {
    Seat seat;
    seat.agent =
        static_cast<std::uint32_t>(static_cast<std::int64_t>(rank) * o_.num_agents / world);
    seat.slot = 0;
    for (const Seat& other : s_.seats) {
      if (other.agent == seat.agent) seat.slot = other.slot + 1;
    }
    s_.seats.push_back(seat);
  }
  s_.branches.push_back({0, 0, 0});
  s_.generation = 1;
  s_.spikes = SpikeMonitor(o_.spikes).initial();
  note(Severity::kNotice, "run starts: {} ranks (dp {} x pp {}), {} steps", world, o_.degrees.dp,
       o_.degrees.pp, s_.total_steps);
  for (std::uint32_t agent = 0; agent < s_.agents.size(); ++agent) spawn_agent(agent);
}

void Decision::take_over(const SupervisorStarted& e) {
  s_.stop_requested = false;
  s_.stop_issued = false;
  s_.save_failures = 0;
  s_.exit_code = -1;
  s_.finish_reason.clear();
  s_.last_progress_generation = s_.generation;
  s_.last_progress_at = now_;
  reconcile_checkpoints(s_, e.manifests, commands_);
  for (const std::string& change : e.config_changes) {
    note(Severity::kNotice, "configuration changed from step {} on: {}", s_.counted_step + 1, change);
  }
  const bool was_running = s_.phase == Phase::kRunning;
  int alive = 0;
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    AgentState& agent = s_.agents[id];
    agent.up = false;
    agent.asked =
        std::find(e.agents_alive.begin(), e.agents_alive.end(), id) != e.agents_alive.end();
    alive += agent.asked ? 1 : 0;
  }
  note(Severity::kNotice,
       "supervisor of term {} takes over at step {}: {} of {} agents may still answer", e.term,
       s_.counted_step, alive, s_.agents.size());
  if (was_running && alive == static_cast<int>(s_.agents.size())) {
    s_.deadline = now_ + o_.takeover_wait;  // phase stays: the workers train on meanwhile
    return;
  }
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    if (!s_.agents[id].asked) {
      for (Seat& seat : s_.seats) {
        if (seat.agent == id) seat.state = SeatState::kAbsent;
      }
      spawn_agent(id);
    }
  }
  begin_gathering("the supervisor was restarted");
  if (alive > 0) s_.deadline = now_ + o_.takeover_wait;
}

void Decision::finish_takeover() {
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    if (s_.agents[id].asked && !s_.agents[id].up) {
      s_.agents[id].asked = false;
      lose_agent(id, "did not answer the new supervisor");
    }
  }
}

// --- Agents and workers
// -----------------------------------------------------------------------------------------

void Decision::spawn_agent(std::uint32_t id) {
  AgentState& agent = s_.agents[id];
  agent.up = false;
  agent.asked = false;
  agent.incarnation = s_.next_incarnation++;
  issue(SpawnAgent{id, agent.incarnation});
}

void Decision::spawn_worker(Seat& seat) {
  seat.incarnation = s_.next_incarnation++;
  seat.state = SeatState::kSpawning;
  seat.spawn_at.reset();
  seat.held = {};
  seat.pid = 0;
  issue(SpawnWorker{seat.agent, seat.slot, seat.incarnation});
}

void Decision::restart_worker(Seat& seat) {
  AgentState& agent = s_.agents[seat.agent];
  const RestartDecision restart = next_restart(o_.worker_restarts, agent.worker_history, now_);
  ++seat.restarts;
  ++s_.restarts;
  if (restart.give_up) {
    finish(kExitGaveUp,
           fmt::format(
               "workers of agent {} died {} times within {:.0f} s; the restart strategy allows {}",
               seat.agent, restart.within_period, to_seconds(o_.worker_restarts.period),
               o_.worker_restarts.intensity));
    return;
  }
  if (restart.delay.count() == 0) {
    spawn_worker(seat);
  } else {
    seat.spawn_at = now_ + restart.delay;
  }
}

void Decision::on(const AgentJoined& e) {
  if (e.agent >= s_.agents.size() || e.incarnation != s_.agents[e.agent].incarnation) return;
  AgentState& agent = s_.agents[e.agent];
  if (agent.up) return;
  const bool answered = std::exchange(agent.asked, false);
  agent.up = true;
  agent.pid = e.pid;
  agent.host = e.host;
  note(Severity::kInfo, "agent {} joined from {} (pid {}){}", e.agent, e.host, e.pid,
       answered ? ", taken over with its workers" : "");
  bool all_as_known = true;
  for (Seat& seat : s_.seats) {
    if (seat.agent != e.agent) continue;
    const auto seen = std::find_if(e.workers.begin(), e.workers.end(), [&](const WorkerSeen& w) {
      return w.slot == seat.slot && w.incarnation == seat.incarnation;
    });
    if (seen == e.workers.end()) {
      if (answered && seat.state != SeatState::kAbsent) all_as_known = false;
      seat.state = SeatState::kAbsent;
      spawn_worker(seat);
      continue;
    }
    seat.pid = seen->pid;
    if (seen->rank < 0) {
      seat.state = SeatState::kFresh;
      all_as_known = false;
    } else if (!seen->training || seen->generation != s_.generation) {
      seat.state = SeatState::kLeaving;  // the abort of begin_gathering makes it answer
      all_as_known = false;
    }
  }
  if (answered && s_.phase == Phase::kRunning) {
    if (!all_as_known) {
      begin_gathering("the workers found after the restart are not all in training");
    } else if (std::all_of(s_.agents.begin(), s_.agents.end(),
                           [](const AgentState& a) { return a.up; })) {
      s_.deadline.reset();
      note(Severity::kNotice, "all workers are still training in generation {}: nothing to do",
           s_.generation);
    }
  } else if (answered) {
    issue(AbortGeneration{s_.generation, s_.counted_step, "the supervisor was restarted"});
  }
  try_start();
}

void Decision::lose_agent(std::uint32_t id, const std::string& evidence) {
  AgentState& agent = s_.agents[id];
  note(Severity::kWarning, "agent {} (pid {}) is lost: {}", id, agent.pid, evidence);
  issue(KillAgent{id, agent.incarnation, evidence});
  for (Seat& seat : s_.seats) {
    if (seat.agent == id) seat.state = SeatState::kAbsent;
  }
  ++agent.restarts;
  ++s_.restarts;
  const RestartDecision restart = next_restart(o_.agent_restarts, agent.history, now_);
  if (restart.give_up) {
    finish(kExitGaveUp,
           fmt::format("agent {} died {} times within {:.0f} s; the restart strategy allows {}", id,
                       restart.within_period, to_seconds(o_.agent_restarts.period),
                       o_.agent_restarts.intensity));
    return;
  }
  spawn_agent(id);
  begin_gathering(fmt::format("agent {} is lost: {}", id, evidence));
}

void Decision::on(const AgentLost& e) {
  if (e.agent >= s_.agents.size() || e.incarnation != s_.agents[e.agent].incarnation) return;
  lose_agent(e.agent, e.evidence);
}

void Decision::on(const WorkerUp& e) {
  Seat* seat = seat_of(e.agent, e.slot, e.incarnation);
  if (seat == nullptr || seat->state != SeatState::kSpawning) return;
  seat->state = SeatState::kFresh;
  seat->pid = e.pid;
  try_start();
}

void Decision::on(const WorkerExited& e) {
  Seat* seat = seat_of(e.agent, e.slot, e.incarnation);
  if (seat == nullptr || seat->state == SeatState::kAbsent) return;
  const int rank = rank_of_seat(*seat);
  seat->state = SeatState::kAbsent;
  note(Severity::kWarning, "worker of rank {} (agent {}, slot {}, pid {}) is gone: {}", rank,
       e.agent, e.slot, seat->pid, e.status);
  restart_worker(*seat);
  if (s_.phase == Phase::kFinished) return;
  if (active()) begin_gathering(fmt::format("rank {} died: {}", rank, e.status));
  try_start();
}

// --- From one generation to the next
// ----------------------------------------------------------------------------

void Decision::begin_gathering(const std::string& reason) {
  ++s_.generation;
  s_.phase = Phase::kGathering;
  if (!s_.fault_at) s_.culprit = reason;
  s_.fault_at = now_;
  s_.deadline = now_ + o_.abort_timeout;
  s_.next_command = 1;
  s_.stop_issued = false;
  for (Seat& seat : s_.seats) {
    switch (seat.state) {
      case SeatState::kPlanned:
      case SeatState::kTraining:
      case SeatState::kStopped:
      case SeatState::kFinished:
        seat.state = SeatState::kLeaving;
        break;
      default:
        break;
    }
  }
  drop_unfinished_checkpoints(s_, reason, commands_);
  issue(AbortGeneration{s_.generation, s_.counted_step, reason});
}

void Decision::try_start() {
  if (s_.phase != Phase::kGathering) return;
  for (const Seat& seat : s_.seats) {
    if (seat.state != SeatState::kFresh && seat.state != SeatState::kStopped) return;
  }
  if (s_.fault_at && now_ < *s_.fault_at + o_.collect_window) return;
  if (s_.generation > s_.last_progress_generation + o_.max_generations_without_progress) {
    finish(kExitGaveUp,
           fmt::format("no step was completed in the last {} generations; last reason: {}",
                       o_.max_generations_without_progress, s_.culprit));
    return;
  }
  const std::uint64_t generation = s_.generation;
  RecoveryPlan recovery = make_recovery_plan(s_, o_);
  for (const StepReport& report : recovery.uncounted) {
    count(report);
    if (s_.generation != generation) return;  // a spike verdict began another gathering
  }
  note(Severity::kNotice, "generation {}: {}", s_.generation, recovery.reason);
  StartGeneration start;
  start.plan = std::move(recovery.plan);
  for (Seat& seat : s_.seats) {
    start.seats.push_back({seat.agent, seat.slot, seat.incarnation});
    seat.state = SeatState::kPlanned;
  }
  s_.phase = Phase::kForming;
  s_.fault_at.reset();
  s_.deadline = now_ + o_.form_timeout;
  issue(std::move(start));
}

void Decision::on(const RankFormed& e) {
  if (e.generation != s_.generation || s_.phase != Phase::kForming || e.rank >= s_.seats.size())
    return;
  Seat& seat = s_.seats[e.rank];
  if (seat.state != SeatState::kPlanned) return;
  seat.state = SeatState::kTraining;
  for (const Seat& other : s_.seats) {
    if (other.state != SeatState::kTraining) return;
  }
  s_.phase = Phase::kRunning;
  s_.deadline.reset();
  s_.last_progress_at = now_;
  note(Severity::kInfo, "generation {} trains on branch {} after step {}", s_.generation, s_.branch,
       e.step);
  if (s_.stop_requested) command_stop();
}

void Decision::on(const RankStopped& e) {
  if (e.generation != s_.generation || e.rank >= s_.seats.size()) return;
  Seat& seat = s_.seats[e.rank];
  if (e.bad_checkpoint != 0) quarantine(s_, e.bad_checkpoint, e.reason, commands_);
  if (active()) {
    note(Severity::kWarning, "rank {} left generation {}: {}", e.rank, s_.generation, e.reason);
    seat.state = SeatState::kStopped;
    begin_gathering(fmt::format("rank {}: {}", e.rank, e.reason));
    return;
  }
  if (s_.phase != Phase::kGathering || seat.state != SeatState::kLeaving) return;
  seat.state = SeatState::kStopped;
  seat.held = e.state;
  try_start();
}

void Decision::on(const TimerFired&) {
  for (Seat& seat : s_.seats) {
    if (seat.spawn_at && now_ >= *seat.spawn_at) spawn_worker(seat);
  }
  if (s_.phase == Phase::kRunning && !s_.deadline && s_.last_progress_at &&
      now_ >= *s_.last_progress_at + o_.hang_timeout) {
    note(Severity::kWarning, "no step was reported for {:.1f} s: the generation hangs",
         to_seconds(o_.hang_timeout));
    begin_gathering("the step hangs");
    return;
  }
  if (s_.deadline && now_ >= *s_.deadline) {
    s_.deadline = now_ + o_.abort_timeout;
    finish_takeover();
    switch (s_.phase) {
      case Phase::kGathering:
        for (Seat& seat : s_.seats) {
          if (seat.state != SeatState::kLeaving) continue;
          note(Severity::kWarning,
               "rank {} did not leave its generation within {:.1f} s and is killed",
               rank_of_seat(seat), to_seconds(o_.abort_timeout));
          issue(KillWorker{seat.agent, seat.slot, seat.incarnation, "did not answer the abort"});
        }
        break;
      case Phase::kForming:
        begin_gathering("forming the generation took too long");
        return;
      case Phase::kFinishing:
        note(Severity::kWarning, "the last checkpoint is not committed yet; trying again");
        begin_gathering("the last checkpoint took too long");
        return;
      case Phase::kRunning:
      case Phase::kFinished:
        s_.deadline.reset();
        break;
    }
  }
  try_start();
}

// --- Steps and spikes
// -------------------------------------------------------------------------------------------

void Decision::on(const StepReported& e) {
  if (e.generation != s_.generation || !active() || e.report.branch != s_.branch) return;
  count(e.report);
}

void Decision::compare_replay(const StepReport& report) {
  const auto& history = s_.spikes.history;
  const auto known = std::find_if(history.begin(), history.end(),
                                  [&](const StepReport& r) { return r.step == report.step; });
  if (known == history.end()) return;
  const auto same = [](double a, double b) { return a == b || (a != a && b != b); };
  if (same(known->loss, report.loss) && same(known->grad_norm, report.grad_norm)) return;
  note(Severity::kError,
       "replayed step {} differs: loss {:.17g} and gradient norm {:.17g}, journalled {:.17g} and "
       "{:.17g} "
       "(a restore failure or a faulty device)",
       report.step, report.loss, report.grad_norm, known->loss, known->grad_norm);
}

void Decision::count(const StepReport& report) {
  if (report.step <= s_.counted_step) {
    compare_replay(report);
    if (active()) s_.last_progress_at = now_;
    return;
  }
  if (report.step != s_.counted_step + 1) {
    note(Severity::kError,
         "report of step {} came after that of step {}; waiting for the ones between", report.step,
         s_.counted_step);
    return;
  }
  s_.counted_step = report.step;
  s_.last_progress_at = now_;
  s_.last_progress_generation = s_.generation;
  const SpikeDecision spike =
      SpikeMonitor(o_.spikes).observe(s_.spikes, report, o_.global_batch_size, s_.total_steps);
  for (const SpikeEvent& e : spike.events) {
    const bool bad = e.action != SpikeAction::kNone;
    note(bad ? Severity::kWarning : Severity::kInfo, "step {}: {}: {}", e.step,
         to_string(e.verdict), e.reason);
  }
  if (spike.stop) {
    finish(kExitDiverged, spike.reason);
    return;
  }
  if (spike.roll_back) {
    roll_back(spike);
    return;
  }
  mark_verified(s_, o_, commands_);
  commit_complete_checkpoints(s_, o_, commands_);
}

void Decision::roll_back(const SpikeDecision& d) {
  const std::uint64_t left = s_.branch;
  withdraw_after_onset(s_, d.onset, commands_);
  s_.branch = s_.next_branch++;
  s_.branches.push_back({s_.branch, left, d.branch_point});
  s_.counted_step = d.branch_point;
  s_.skip_windows.push_back(d.skip);
  if (d.softening) s_.softenings.push_back(*d.softening);
  ++s_.rollbacks;
  SpikeMonitor(o_.spikes).rewind(s_.spikes, d.branch_point);
  note(Severity::kWarning,
       "rollback {}: branch {} leaves branch {} after step {}; samples [{}, {}) are skipped: {}",
       s_.rollbacks, s_.branch, left, d.branch_point, d.skip.begin, d.skip.end, d.reason);
  begin_gathering(fmt::format("rollback to step {}", d.branch_point));
}

// --- Checkpoints
// ------------------------------------------------------------------------------------------------

void Decision::on(const ShardWritten& e) {
  if (e.generation != s_.generation || e.branch != s_.branch || e.rank >= s_.seats.size() ||
      !active())
    return;
  record_shard(s_, o_, e, commands_);
  commit_complete_checkpoints(s_, o_, commands_);
}

void Decision::save_failed(const std::string& error) {
  ++s_.save_failures;
  note(Severity::kError, "a checkpoint could not be saved; training goes on: {}", error);
  if (s_.phase != Phase::kFinishing) return;
  if (s_.save_failures >= o_.max_save_failures) {
    const CheckpointInfo* last = newest_checkpoint(s_, s_.counted_step);
    finish(
        kExitStore,
        fmt::format(
            "the last checkpoint could not be saved in {} tries ({}); the newest one is of step {}",
            s_.save_failures, error, last != nullptr ? last->step : 0));
    return;
  }
  begin_gathering("the last checkpoint is written again");
}

void Decision::on(const ShardFailed& e) {
  if (e.generation != s_.generation) return;
  issue(DiscardCheckpoint{e.checkpoint_id, e.branch, e.step, e.error});
  forget_checkpoint(s_, e.checkpoint_id);
  save_failed(fmt::format("rank {}, step {}: {}", e.rank, e.step, e.error));
}

void Decision::on(const CommitEnded& e) {
  const auto it = std::find_if(s_.checkpoints.begin(), s_.checkpoints.end(),
                               [&](const CheckpointInfo& c) { return c.id == e.checkpoint_id; });
  if (it == s_.checkpoints.end()) return;
  if (!e.ok) {
    issue(DiscardCheckpoint{it->id, it->branch, it->step, e.error});
    const std::int64_t step = it->step;
    forget_checkpoint(s_, e.checkpoint_id);
    save_failed(fmt::format("step {}: {}", step, e.error));
    return;
  }
  it->committing = false;
  it->committed = true;
  it->bytes = e.bytes;
  it->shards.clear();
  s_.save_failures = 0;
  note(Severity::kInfo, "checkpoint {} of step {} (branch {}) is committed: {:.1f} MB", it->id,
       it->step, it->branch, static_cast<double>(e.bytes) * 1e-6);
  issue(VerifyCheckpoint{it->id});
  retire_checkpoints(s_, o_, commands_);
  check_finished();
}

void Decision::on(const VerifyEnded& e) {
  const auto it = std::find_if(s_.checkpoints.begin(), s_.checkpoints.end(),
                               [&](const CheckpointInfo& c) { return c.id == e.checkpoint_id; });
  if (it == s_.checkpoints.end()) return;
  if (!e.ok) {
    quarantine(s_, e.checkpoint_id, e.error, commands_);
    return;
  }
  it->read_back = true;
  mark_verified(s_, o_, commands_);
}

// --- The end
// ----------------------------------------------------------------------------------------------------

void Decision::on(const StopRequested& e) {
  if (s_.stop_requested || s_.phase == Phase::kFinished) return;
  s_.stop_requested = true;
  s_.stop_kind = e.kind;
  note(Severity::kNotice, "stop requested by {}: finish the step, checkpoint, leave", e.by);
  if (s_.phase == Phase::kRunning) command_stop();
}

void Decision::command_stop() {
  if (s_.stop_issued) return;
  s_.stop_issued = true;
  issue(IssueCommand{{s_.next_command++, WorkerCommandKind::kStop}});
}

void Decision::on(const RankFinished& e) {
  if (e.generation != s_.generation || e.rank >= s_.seats.size()) return;
  Seat& seat = s_.seats[e.rank];
  if (seat.state != SeatState::kTraining && seat.state != SeatState::kPlanned) return;
  seat.state = SeatState::kFinished;
  seat.finished_step = e.step;
  seat.finish_cause = e.cause;
  check_finished();
}

void Decision::check_finished() {
  if (!active()) return;
  for (const Seat& seat : s_.seats) {
    if (seat.state != SeatState::kFinished) return;
  }
  const std::int64_t step = s_.seats.front().finished_step;
  if (s_.phase != Phase::kFinishing) {
    s_.phase = Phase::kFinishing;
    s_.deadline = now_ + o_.hang_timeout;
    commit_complete_checkpoints(s_, o_, commands_);
  }
  const CheckpointInfo* last = newest_checkpoint(s_, step);
  if (last == nullptr || last->step != step) return;
  if (s_.seats.front().finish_cause == FinishCause::kDone) {
    finish(kExitDone, fmt::format("all {} steps are done", step));
  } else if (s_.stop_kind == StopKind::kPreempt) {
    finish(kExitRequeue, fmt::format("preempted after step {}; start again to go on", step));
  } else {
    finish(kExitStopped, fmt::format("stopped after step {}", step));
  }
}

}  // namespace

RunController::RunController(ControllerOptions options) : options_(std::move(options)) {}

std::vector<Command> RunController::decide(RunState& state, const Event& event, Time now) const {
  if (state.phase == Phase::kFinished && !std::holds_alternative<SupervisorStarted>(event))
    return {};
  Decision decision(state, options_, now);
  std::visit([&](const auto& e) { decision.on(e); }, event);
  return decision.take();
}

std::optional<Time> RunController::next_deadline(const RunState& state) const {
  std::optional<Time> next = state.deadline;
  const auto sooner = [&](std::optional<Time> t) {
    if (t && (!next || *t < *next)) next = t;
  };
  for (const Seat& seat : state.seats) sooner(seat.spawn_at);
  if (state.phase == Phase::kGathering && state.fault_at)
    sooner(*state.fault_at + options_.collect_window);
  if (state.phase == Phase::kRunning && !state.deadline && state.last_progress_at) {
    sooner(*state.last_progress_at + options_.hang_timeout);
  }
  if (state.phase == Phase::kFinished) next.reset();
  return next;
}

}  // namespace tenax::scheduler
