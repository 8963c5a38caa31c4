#include "scheduler/spike_monitor.h"

#include <algorithm>
#include <cmath>

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

}  // namespace

SpikeMonitorState SpikeMonitor::initial() const {
  SpikeMonitorState state;
  state.base = SpikeDetector(options_.spikes).save();
  state.now = state.base;
  return state;
}

SpikeDecision SpikeMonitor::observe(SpikeMonitorState& state, const StepReport& report,
                                    std::int64_t global_batch_size,
                                    std::int64_t total_steps) const {
  SpikeDecision decision;
  state.history.push_back(report);
  if (options_.spikes.enabled) {
    SpikeDetector detector = SpikeDetector::restore(options_.spikes, std::move(state.now));
    decision.events = detector.observe(to_point(report));
    state.now = detector.save();
  }
  if (state.history.size() > options_.max_history) {
    const auto half = static_cast<std::ptrdiff_t>(options_.max_history / 2);
    SpikeDetector folded = SpikeDetector::restore(options_.spikes, std::move(state.base));
    for (auto it = state.history.begin(); it != state.history.begin() + half; ++it) {
      folded.observe(to_point(*it));
    }
    state.base = folded.save();
    state.history.erase(state.history.begin(), state.history.begin() + half);
  }
  state.ladder.total_steps = total_steps;
  for (const SpikeEvent& event : decision.events) {
    const LadderDecision rung = climb(event, state.ladder, options_.spikes);
    if (rung.rung == LadderRung::kStop) {
      decision.stop = true;
      decision.reason = rung.reason;
      return decision;
    }
    if (rung.rung != LadderRung::kRollBack) continue;
    decision.roll_back = true;
    decision.onset = event.onset;
    decision.branch_point = rung.branch_point;
    decision.skip = positions_of(state.history, rung.skip_first, rung.skip_last, global_batch_size);
    if (rung.soften_last >= rung.soften_first) {
      decision.softening = Softening{rung.soften_first, rung.soften_last, rung.lr_factor};
    }
    decision.reason = rung.reason;
    state.ladder.rollbacks.push_back(
        {report.branch, event.onset, rung.branch_point, rung.skip_first, rung.skip_last});
    return decision;
  }
  return decision;
}

void SpikeMonitor::rewind(SpikeMonitorState& state, std::int64_t step) const {
  std::erase_if(state.history, [&](const StepReport& r) { return r.step > step; });
  // Further back than the history reaches: nothing known is older than `step`, so the detector
  // starts anew.
  if (state.history.empty()) state.base = SpikeDetector(options_.spikes).save();
  SpikeDetector detector = SpikeDetector::restore(options_.spikes, state.base);
  for (const StepReport& r : state.history) detector.observe(to_point(r));
  ContextChange change;
  change.kind = ContextChange::Kind::kRollback;
  change.step = step;
  detector.note_context_change(change);
  state.now = detector.save();
}

bool SpikeMonitor::sound(const SpikeMonitorState& state) const {
  return !options_.spikes.enabled || SpikeDetector::restore(options_.spikes, state.now).sound();
}

}  // namespace tenax::scheduler
