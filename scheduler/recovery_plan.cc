#include "scheduler/recovery_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "scheduler/layout.h"
#include "scheduler/rank_assignment.h"
#include "scheduler/run_controller.h"

namespace tenax::scheduler {

namespace {

struct LiveStep {
  std::int64_t step = 0;
  std::map<std::int64_t, StepReport> known;  ///< reports that any rank or the journal has
};

/// What the ready seats hold, judged for one layout.
class Memory {
 public:
  Memory(const RunState& state, const Degrees& degrees, const std::vector<int>& ready)
      : state_(state), degrees_(degrees), ready_(ready) {}

  /// The newest step that some rank has applied, or has gradients for while its verdict is known to
  /// anyone.
  std::optional<LiveStep> newest_step() const {
    LiveStep live;
    bool any = false;
    for (const StepReport& r : state_.spikes.history) {
      if (r.step <= state_.counted_step) live.known[r.step] = r;
    }
    for (const int i : ready_) {
      const Seat& seat = state_.seats[i];
      if (!usable(seat)) continue;
      any = true;
      live.step = std::max(live.step, seat.held.last_applied);
      for (const StepReport& r : seat.held.reports) live.known.try_emplace(r.step, r);
      if (seat.held.verdict_known)
        live.known.try_emplace(seat.held.verdict.step, seat.held.verdict);
    }
    if (!any) return std::nullopt;
    for (const int i : ready_) {
      const Seat& seat = state_.seats[i];
      if (!usable(seat)) continue;
      const std::int64_t gradients = seat.held.gradients_ready;
      if (gradients == live.step + 1 && gradients == seat.held.last_applied + 1 &&
          live.known.contains(gradients)) {
        live.step = gradients;
        break;
      }
    }
    return live;
  }

  bool can_reach(const Seat& seat, const LiveStep& live) const {
    if (!usable(seat)) return false;
    if (seat.held.last_applied == live.step) return true;
    return seat.held.last_applied + 1 == live.step && seat.held.gradients_ready == live.step &&
           live.known.contains(live.step);
  }

 private:
  bool usable(const Seat& seat) const {
    return seat.state == SeatState::kStopped && seat.held.has_weights &&
           seat.held.branch == state_.branch && seat.held.degrees.pp == degrees_.pp &&
           seat.held.degrees.tp == degrees_.tp;
  }

  const RunState& state_;
  const Degrees& degrees_;
  const std::vector<int>& ready_;
};

std::vector<int> assign_without_memory(const RunState& state, const Degrees& degrees,
                                       const std::vector<int>& ready) {
  return assign_ranks(state, degrees, ready, std::vector<bool>(ready.size(), false));
}

std::optional<RecoveryPlan> plan_from_memory(const RunState& state, const Degrees& degrees,
                                             const std::vector<int>& ready, int zero) {
  const Memory memory(state, degrees, ready);
  const std::optional<LiveStep> live = memory.newest_step();
  if (!live) return std::nullopt;
  std::vector<bool> reaches;
  for (const int i : ready) reaches.push_back(memory.can_reach(state.seats[i], *live));
  RecoveryPlan out;
  out.seats = assign_ranks(state, degrees, ready, reaches, zero);
  const auto has_weights = [&](int rank) {
    const Seat& seat = state.seats[out.seats[rank]];
    return memory.can_reach(seat, *live) && holds_shard_of(seat.held, degrees, rank, zero);
  };
  Plan& plan = out.plan;
  plan.step = live->step;
  int from_memory = 0;
  int from_peers = 0;
  for (int rank = 0; rank < degrees.world_size(); ++rank) {
    if (has_weights(rank)) {
      plan.sources.push_back({SourceKind::kMemory, -1});
      ++from_memory;
      if (state.seats[out.seats[rank]].held.last_applied < live->step) plan.has_half_step = true;
      continue;
    }
    int peer = -1;
    for (int candidate : data_parallel_group(degrees, rank)) {
      // With ZeRO each holds a part of the optimizer's state that no other has.
      if (zero == 0 && candidate != rank && has_weights(candidate)) {
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

RecoveryPlan plan_from_store(const RunState& state, const Degrees& degrees,
                             const std::vector<int>& ready) {
  RecoveryPlan out;
  out.seats = assign_without_memory(state, degrees, ready);
  Plan& plan = out.plan;
  const std::int64_t limit =
      state.load_before < 0 ? state.counted_step : std::max<std::int64_t>(0, state.load_before - 1);
  const CheckpointInfo* checkpoint = newest_checkpoint(state, std::min(limit, state.counted_step));
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
  plan.sources.assign(static_cast<std::size_t>(degrees.world_size()), {kind, -1});
  if (state.counted_step > plan.step) {
    out.reason += fmt::format(" and replay {} step{}", state.counted_step - plan.step,
                              state.counted_step - plan.step == 1 ? "" : "s");
  }
  return out;
}

/// What the step guard knows after the plan's step.
GuardState guard_of(const RunState& state, const ControllerOptions& options,
                    const RecoveryPlan& recovery) {
  const Plan& plan = recovery.plan;
  const RankSource& first = plan.sources.front();
  if (first.kind == SourceKind::kInitial) return {};
  if (first.kind == SourceKind::kCheckpoint) {
    for (const CheckpointInfo& c : state.checkpoints) {
      if (c.id == plan.checkpoint_id) return c.guard;
    }
  }
  GuardState guard = SpikeMonitor(options.spikes).guard_after(state.spikes, plan.step);
  for (const StepReport& r : recovery.uncounted) observe_step(options.spikes.guard, r, guard);
  return guard;
}

}  // namespace

std::string cost_of_a_lost_rank(const ControllerOptions& options) {
  const std::string back =
      options.checkpoint_interval > 0
          ? fmt::format(
                "the run goes back to the newest checkpoint (one every {} steps) and replays "
                "the steps since",
                options.checkpoint_interval)
          : std::string("the run starts again, since checkpoint.interval is 0");
  if (options.zero > 0) {
    return fmt::format(
        "a lost rank's share of the optimizer state has no second copy (ZeRO-{}): {}", options.zero,
        back);
  }
  if (options.degrees.dp > 1)
    return "a lost rank's state comes from a data-parallel peer, no step is repeated";
  return "a lost rank's state has no second copy (one replica): " + back;
}

RecoveryPlan make_recovery_plan(const RunState& state, const ControllerOptions& options,
                                const Degrees& degrees, const std::vector<int>& ready) {
  std::optional<RecoveryPlan> live;
  if (!state.distrust_memory && state.load_before < 0)
    live = plan_from_memory(state, degrees, ready, options.zero);
  // A spare may still hold what it had when it last took part.
  const CheckpointInfo* checkpoint = newest_checkpoint(state, state.counted_step);
  if (live && checkpoint != nullptr && checkpoint->step > live->plan.step) live.reset();
  RecoveryPlan out = live ? *std::move(live) : plan_from_store(state, degrees, ready);
  out.plan.generation = state.generation;
  out.plan.branch = state.branch;
  out.plan.total_steps = state.total_steps;
  out.plan.degrees = degrees;
  out.plan.skip_windows = state.skip_windows;
  out.plan.softenings = state.softenings;
  out.plan.guard = guard_of(state, options, out);
  return out;
}

}  // namespace tenax::scheduler
