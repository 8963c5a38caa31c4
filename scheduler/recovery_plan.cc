#include "scheduler/recovery_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "scheduler/layout.h"
#include "scheduler/run_controller.h"

namespace tenax::scheduler {

namespace {

struct LiveStep {
  std::int64_t step = 0;
  std::map<std::int64_t, StepReport> known;  ///< reports that any rank or the journal has
};

bool usable(const RunState& state, const Seat& seat) {
  return seat.state == SeatState::kStopped && seat.held.has_weights &&
         seat.held.branch == state.branch;
}

/// The newest step that some rank has applied, or has gradients for while its verdict is known to
/// anyone.
std::optional<LiveStep> newest_live_step(const RunState& state) {
  LiveStep live;
  bool any = false;
  for (const StepReport& r : state.spikes.history) {
    if (r.step <= state.counted_step) live.known[r.step] = r;
  }
  for (const Seat& seat : state.seats) {
    if (!usable(state, seat)) continue;
    any = true;
    live.step = std::max(live.step, seat.held.last_applied);
    for (const StepReport& r : seat.held.reports) live.known.try_emplace(r.step, r);
    if (seat.held.verdict_known) live.known.try_emplace(seat.held.verdict.step, seat.held.verdict);
  }
  if (!any) return std::nullopt;
  for (const Seat& seat : state.seats) {
    if (!usable(state, seat)) continue;
    const std::int64_t ready = seat.held.gradients_ready;
    if (ready == live.step + 1 && ready == seat.held.last_applied + 1 &&
        live.known.contains(ready)) {
      live.step = ready;
      break;
    }
  }
  return live;
}

bool can_reach(const RunState& state, const Seat& seat, const LiveStep& live) {
  if (!usable(state, seat)) return false;
  if (seat.held.last_applied == live.step) return true;
  return seat.held.last_applied + 1 == live.step && seat.held.gradients_ready == live.step &&
         live.known.contains(live.step);
}

std::optional<RecoveryPlan> plan_from_memory(const RunState& state, const Degrees& degrees) {
  const std::optional<LiveStep> live = newest_live_step(state);
  if (!live) return std::nullopt;
  RecoveryPlan out;
  Plan& plan = out.plan;
  plan.step = live->step;
  int from_memory = 0;
  int from_peers = 0;
  for (int rank = 0; rank < static_cast<int>(state.seats.size()); ++rank) {
    const Seat& seat = state.seats[rank];
    if (can_reach(state, seat, *live)) {
      plan.sources.push_back({SourceKind::kMemory, -1});
      ++from_memory;
      if (seat.held.last_applied < live->step) plan.has_half_step = true;
      continue;
    }
    int peer = -1;
    for (int candidate : data_parallel_group(degrees, rank)) {
      if (candidate != rank && can_reach(state, state.seats[candidate], *live)) {
        peer = candidate;
        break;
      }
    }
    if (peer < 0) return std::nullopt;
    plan.sources.push_back({SourceKind::kPeer, peer});
    ++from_peers;
  }
  if (plan.has_half_step) plan.half_step = live->known.at(live->step);
  for (std::int64_t step = state.counted_step + 1; step <= live->step; ++step) {
    const auto it = live->known.find(step);
    if (it == live->known.end())
      return std::nullopt;  // a step nobody can account for: replay it instead
    out.uncounted.push_back(it->second);
  }
  out.reason =
      fmt::format("go on after step {}: {} rank{} from memory, {} from a data-parallel peer{}",
                  plan.step, from_memory, from_memory == 1 ? "" : "s", from_peers,
                  plan.has_half_step ? "; the half-done step is finished first" : "");
  return out;
}

RecoveryPlan plan_from_store(const RunState& state) {
  RecoveryPlan out;
  Plan& plan = out.plan;
  const CheckpointInfo* checkpoint = newest_checkpoint(state, state.counted_step);
  if (checkpoint != nullptr) {
    plan.step = checkpoint->step;
    plan.checkpoint_id = checkpoint->id;
    plan.checkpoint_branch = checkpoint->branch;
    out.reason = fmt::format("go back to the checkpoint of step {} (branch {})", checkpoint->step,
                             checkpoint->branch);
  } else {
    out.reason = "start from the initial weights";
  }
  const SourceKind kind = checkpoint != nullptr ? SourceKind::kCheckpoint : SourceKind::kInitial;
  plan.sources.assign(state.seats.size(), {kind, -1});
  if (state.counted_step > plan.step) {
    out.reason += fmt::format(" and replay {} step{}", state.counted_step - plan.step,
                              state.counted_step - plan.step == 1 ? "" : "s");
  }
  return out;
}

}  // namespace

RecoveryPlan make_recovery_plan(const RunState& state, const ControllerOptions& options) {
  std::optional<RecoveryPlan> live = plan_from_memory(state, options.degrees);
  RecoveryPlan out = live ? *std::move(live) : plan_from_store(state);
  out.plan.generation = state.generation;
  out.plan.branch = state.branch;
  out.plan.total_steps = state.total_steps;
  out.plan.degrees = options.degrees;
  out.plan.skip_windows = state.skip_windows;
  out.plan.softenings = state.softenings;
  return out;
}

}  // namespace tenax::scheduler
