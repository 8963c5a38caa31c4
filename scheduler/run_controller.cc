#include "scheduler/run_controller.h"

#include <algorithm>
#include <utility>

#include "scheduler/run_decision.h"
#include "scheduler/run_json.h"

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

std::string_view to_string(DeviceTrouble trouble) {
  switch (trouble) {
    case DeviceTrouble::kFault:
      return "fault";
    case DeviceTrouble::kOutOfMemory:
      return "out of memory";
    case DeviceTrouble::kCommunication:
      return "communication";
    case DeviceTrouble::kHealth:
      return "health";
  }
  return "trouble";
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

RunController::RunController(ControllerOptions options) : options_(std::move(options)) {}

std::vector<Command> RunController::decide(RunState& state, const Event& event, Time now) const {
  if (state.phase == Phase::kFinished && !std::holds_alternative<SupervisorStarted>(event) &&
      !std::holds_alternative<PruneRequested>(event) &&
      !std::holds_alternative<RollbackRequested>(event)) {
    return {};
  }
  Decision decision(state, options_, now);
  std::visit([&](const auto& e) { decision.on(e); }, event);
  return decision.take();
}

void RunController::catch_up(RunState& state, std::span<const JournalEntry> entries) const {
  std::size_t last_decision = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    for (const Command& c : entries[i].commands) {
      if (!std::holds_alternative<Note>(c)) last_decision = i + 1;
    }
  }
  for (const JournalEntry& e : entries.subspan(last_decision)) {
    static_cast<void>(decide(state, e.event, e.time));
  }
}

std::optional<Time> RunController::next_deadline(const RunState& state) const {
  std::optional<Time> next = state.deadline;
  const auto sooner = [&](std::optional<Time> t) {
    if (t && (!next || *t < *next)) next = t;
  };
  for (const Seat& seat : state.seats) {
    sooner(seat.spawn_at);
    if (seat.state == SeatState::kSpawning && state.agents[seat.agent].up && seat.spawned_at) {
      sooner(*seat.spawned_at + options_.form_timeout);
    }
  }
  for (const AgentState& agent : state.agents) {
    if (!agent.up && agent.spawned_at) sooner(*agent.spawned_at + options_.form_timeout);
    sooner(agent.excluded_until);
  }
  if (state.phase == Phase::kGathering && state.fault_at)
    sooner(*state.fault_at + options_.collect_window);
  if (state.phase == Phase::kRunning && !state.deadline && state.last_progress_at) {
    sooner(*state.last_progress_at + step_limit(state, options_).limit);
  }
  if (state.phase == Phase::kFinished) next.reset();
  return next;
}

}  // namespace tenax::scheduler
