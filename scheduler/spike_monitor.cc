#include "scheduler/spike_monitor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tenax::scheduler {

namespace {

MetricPoint to_point(const StepReport& r) {
  MetricPoint p;
  p.step = r.step;
  p.loss = r.loss;
  p.grad_norm = r.grad_norm;
  p.update_skipped = r.update != UpdateKind::kApplied;
  return p;
}

/// Absolute positions of the samples of steps first..last; steps not yet reported are taken as full
/// batches.
SkipWindow positions_of(const std::vector<StepReport>& history, std::int64_t first,
                        std::int64_t last, std::int64_t global_batch_size) {
  SkipWindow window;
  const StepReport& newest = history.back();
  const auto it = std::find_if(history.begin(), history.end(),
                               [&](const StepReport& r) { return r.step >= first; });
  window.begin = it != history.end() ? it->position_begin : newest.position_end;
  window.end =
      newest.position_end + std::max<std::int64_t>(0, last - newest.step) * global_batch_size;
  return window;
}

/// A rise of the learning rate or of the batch that the reports show: announced or not, the loss
/// may move with it, so thresholds are wide until it has settled.
void note_ramps(const StepReport& before, const StepReport& report, std::int64_t settling,
                SpikeDetector& detector) {
  constexpr double kBatchGrowth = 1.25;
  ContextChange change;
  change.step = report.step;
  change.until_step = report.step + settling;
  change.kind = ContextChange::Kind::kLearningRateRamp;
  if (report.learning_rate > before.learning_rate) detector.note_context_change(change);
  change.kind = ContextChange::Kind::kBatchRamp;
  if (static_cast<double>(report.tokens) > kBatchGrowth * static_cast<double>(before.tokens))
    detector.note_context_change(change);
}

/// "the learning rate went from 0.001 to 0.03 at step 40": the steepest rise among the reports from
/// `onset` - `margin` on; empty if none is more than half.
std::string steep_ramp(const std::vector<StepReport>& history, std::int64_t onset,
                       std::int64_t margin) {
  constexpr double kSteep = 1.5;
  std::string text;
  double steepest = kSteep;
  for (std::size_t i = 1; i < history.size(); ++i) {
    const StepReport& before = history[i - 1];
    const StepReport& now = history[i];
    if (now.step < onset - margin || now.step > onset || before.learning_rate <= 0) continue;
    const double ratio = now.learning_rate / before.learning_rate;
    if (ratio <= steepest) continue;
    steepest = ratio;
    text = fmt::format("; the learning rate went from {:.3g} to {:.3g} at step {}",
                       before.learning_rate, now.learning_rate, now.step);
  }
  return text;
}

}  // namespace

SpikeMonitorState SpikeMonitor::initial() const {
  SpikeMonitorState state;
  state.base = SpikeDetector(options_.spikes).save();
  state.now = state.base;
  return state;
}

SpikeDetector SpikeMonitor::feed(SpikeDetector detector, const std::vector<StepReport>& history,
                                 std::size_t first, std::size_t end,
                                 std::vector<SpikeEvent>* events) const {
  for (std::size_t i = first; i < end; ++i) {
    if (i > 0) note_ramps(history[i - 1], history[i], options_.spikes.patience, detector);
    std::vector<SpikeEvent> made = detector.observe(to_point(history[i]));
    if (events != nullptr) *events = std::move(made);
  }
  return detector;
}

SpikeDecision SpikeMonitor::observe(SpikeMonitorState& state, const StepReport& report,
                                    std::int64_t global_batch_size,
                                    std::int64_t total_steps) const {
  SpikeDecision decision;
  state.history.push_back(report);
  state.history.back().replica_losses.clear();  // evidence for the journal; not read here
  if (options_.spikes.enabled) {
    const std::size_t n = state.history.size();
    state.now = feed(SpikeDetector::restore(options_.spikes, std::move(state.now)), state.history,
                     n - 1, n, &decision.events)
                    .save();
    if (!sound(state)) state.unsound_steps.push_back(report.step);
  }
  if (state.history.size() > options_.max_history) fold_older_half(state);
  state.ladder.total_steps = total_steps;
  for (const SpikeEvent& event : decision.events) {
    const LadderDecision rung = climb(event, state.ladder, options_.spikes);
    if (rung.rung == LadderRung::kStop) {
      decision.stop = true;
      decision.reason = rung.reason;
      return decision;
    }
    if (rung.rung == LadderRung::kNothing || rung.rung == LadderRung::kSkipUpdate) continue;
    decision.step = event.step;
    decision.onset = event.onset;
    decision.reason = rung.reason;
    decision.replay = rung.rung == LadderRung::kReplayStep;
    decision.load_older = rung.rung == LadderRung::kLoadOlder;
    if (decision.load_older) ++state.ladder.restore_failures;
    if (rung.rung != LadderRung::kRollBack) continue;
    decision.roll_back = true;
    decision.branch_point = rung.branch_point;
    decision.skip = positions_of(state.history, rung.skip_first, rung.skip_last, global_batch_size);
    if (rung.soften_last >= rung.soften_first) {
      decision.softening = Softening{rung.soften_first, rung.soften_last, rung.lr_factor};
    }
    decision.reason =
        rung.reason + steep_ramp(state.history, event.onset, options_.spikes.patience);
    state.ladder.rollbacks.push_back(
        {report.branch, event.onset, rung.branch_point, rung.skip_first, rung.skip_last});
    return decision;
  }
  return decision;
}

void SpikeMonitor::fold_older_half(SpikeMonitorState& state) const {
  const std::size_t half = options_.max_history / 2;
  state.base = feed(SpikeDetector::restore(options_.spikes, std::move(state.base)), state.history,
                    0, half, nullptr)
                   .save();
  for (std::size_t i = 0; i < half; ++i)
    observe_step(options_.guard, state.history[i], state.guard_base);
  state.guard_base_step = state.history[half - 1].step;
  state.history.erase(state.history.begin(),
                      state.history.begin() + static_cast<std::ptrdiff_t>(half));
  std::erase_if(state.unsound_steps,
                [&](std::int64_t step) { return step <= state.guard_base_step; });
}

void SpikeMonitor::observe_forgotten(SpikeMonitorState& state, const StepReport& report) const {
  if (report.step != state.guard_base_step + 1) return;
  if (!state.history.empty() && report.step >= state.history.front().step) return;
  observe_step(options_.guard, report, state.guard_base);
  state.guard_base_step = report.step;
}

void SpikeMonitor::rewind(SpikeMonitorState& state, std::int64_t step, std::int64_t guard_step,
                          const GuardState& guard) const {
  std::erase_if(state.history, [&](const StepReport& r) { return r.step > step; });
  std::erase_if(state.unsound_steps, [&](std::int64_t s) { return s > step; });
  // Further back than the history reaches: nothing known is older than `step`, so the detector
  // starts anew.
  if (state.history.empty()) {
    state.base = SpikeDetector(options_.spikes).save();
    if (state.guard_base_step > step) {
      state.guard_base = guard;
      state.guard_base_step = guard_step;
    }
  }
  SpikeDetector detector = feed(SpikeDetector::restore(options_.spikes, state.base), state.history,
                                0, state.history.size(), nullptr);
  ContextChange change;
  change.kind = ContextChange::Kind::kRollback;
  change.step = step;
  detector.note_context_change(change);
  state.now = detector.save();
}

std::optional<SkipWindow> SpikeMonitor::positions(const SpikeMonitorState& state,
                                                  std::int64_t first, std::int64_t last,
                                                  std::int64_t global_batch_size) const {
  if (last < first || state.history.empty() || first < state.history.front().step)
    return std::nullopt;
  const StepReport& newest = state.history.back();
  const auto at = [&](std::int64_t step) -> const StepReport& {
    return state.history[static_cast<std::size_t>(step - state.history.front().step)];
  };
  // Steps to come take the next positions, unless they meet an older window, which loses nothing.
  const auto ahead = [&](std::int64_t steps) {
    return newest.position_end + steps * global_batch_size;
  };
  SkipWindow window;
  window.begin = first <= newest.step ? at(first).position_begin : ahead(first - newest.step - 1);
  window.end = last <= newest.step ? at(last).position_end : ahead(last - newest.step);
  return window;
}

void SpikeMonitor::note_restored(SpikeMonitorState& state, bool replays) const {
  if (!options_.spikes.enabled) return;
  if (replays) {
    state.now.check_restore = false;
    return;
  }
  SpikeDetector detector = SpikeDetector::restore(options_.spikes, std::move(state.now));
  detector.note_context_change({ContextChange::Kind::kResume, 0, 0});
  state.now = detector.save();
}

bool SpikeMonitor::sound_after(const SpikeMonitorState& state, std::int64_t step) const {
  return !std::binary_search(state.unsound_steps.begin(), state.unsound_steps.end(), step);
}

GuardState SpikeMonitor::guard_after(const SpikeMonitorState& state, std::int64_t step) const {
  GuardState guard = state.guard_base;
  for (const StepReport& r : state.history) {
    if (r.step > step) break;
    observe_step(options_.guard, r, guard);
  }
  return guard;
}

bool SpikeMonitor::sound(const SpikeMonitorState& state) const {
  return !options_.spikes.enabled || SpikeDetector::restore(options_.spikes, state.now).sound();
}

}  // namespace tenax::scheduler
