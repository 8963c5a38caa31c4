#include "scheduler/spike_slow_changes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "scheduler/spike_baseline.h"
#include "scheduler/spike_measure.h"

namespace tenax::scheduler {
namespace {

void compare_block(const SpikeOptions& options, const MetricPoint& point, double level,
                   SpikeDetectorState& state, std::vector<SpikeEvent>& events) {
  const SpikeMeasure measure(options, state);
  const double lowest = *std::min_element(state.block_levels.begin(), state.block_levels.end());
  const double rise = level - lowest;
  if (rise <= std::max(options.shift_sigmas * state.baseline.sigma, options.min_shift)) {
    state.shift_streak = 0;
    return;
  }
  if (state.shift_streak++ == 0) state.shift_onset = state.block_begin;
  if (state.shift_streak < 2) return;
  const bool costly = rise > measure.suspicious_rise(point.step);
  // Told once; said again only when it has grown enough to act on.
  if (state.shift_streak > 2 && !costly) return;
  SpikeEvent shift = measure.event(
      point, SpikeVerdict::kLevelShift, costly ? SpikeAction::kRollBack : SpikeAction::kNone,
      fmt::format(
          "the median loss of the last {} samples is {:.4g}, {:.3g} above the {:.4g} it had "
          "been down to, and has been above since step {}",
          options.shift_block, level, rise, lowest, state.shift_onset));
  shift.onset = state.shift_onset;
  shift.baseline = lowest;
  events.push_back(std::move(shift));
  if (costly) forget_blocks(state);
}

}  // namespace

bool observe_drop(const SpikeOptions& options, const MetricPoint& point, SpikeDetectorState& state,
                  std::vector<SpikeEvent>& events) {
  const SpikeMeasure measure(options, state);
  const bool reported = state.drop_streak >= options.drop_confirm;
  const double seen = reported ? measure.recent_median(options.recovery_samples) : point.loss;
  if (!measure.dropped(seen, point.step)) {
    if (reported) {
      SpikeEvent back =
          measure.event(point, SpikeVerdict::kRecovered, SpikeAction::kNone,
                        fmt::format("the loss is back at {:.4g} (baseline {:.4g}) after the "
                                    "drop of step {}",
                                    point.loss, state.baseline.level, state.drop_onset));
      back.onset = state.drop_onset;
      events.push_back(std::move(back));
    }
    state.drop_streak = 0;
    return false;
  }
  if (state.drop_streak++ == 0) state.drop_onset = point.step;
  if (state.drop_streak == options.drop_confirm) {
    SpikeEvent drop = measure.event(
        point, SpikeVerdict::kAbnormalDrop, SpikeAction::kNone,
        fmt::format("the loss fell to {:.4g}, {:.3g} under its trend of {:.4g}: repeated data, "
                    "a leak, or a wrong scale?",
                    point.loss, state.baseline.level - point.loss, state.baseline.level));
    drop.onset = state.drop_onset;
    events.push_back(std::move(drop));
  }
  if (state.drop_streak >= options.adopt_samples) {
    adopt_recent(options, state);
    state.drop_streak = 0;
  }
  return true;
}

void observe_block(const SpikeOptions& options, const MetricPoint& point, SpikeDetectorState& state,
                   std::vector<SpikeEvent>& events) {
  if (state.block.empty()) state.block_begin = point.step;
  state.block.push_back(point.loss);
  if (state.block.size() < static_cast<std::size_t>(options.shift_block)) return;
  const double level = median_in_place(state.block);
  state.block.clear();
  if (!state.block_levels.empty()) compare_block(options, point, level, state, events);
  if (state.block_levels.size() >= static_cast<std::size_t>(options.shift_history))
    state.block_levels.erase(state.block_levels.begin());
  state.block_levels.push_back(level);
}

void adopt_recent(const SpikeOptions& options, SpikeDetectorState& state) {
  const auto kept = std::min(state.recent.size(), static_cast<std::size_t>(options.adopt_samples));
  SpikeBaseline(options.window)
      .reset({state.recent.end() - static_cast<std::ptrdiff_t>(kept), state.recent.end()},
             state.baseline);
  forget_blocks(state);
}

void forget_blocks(SpikeDetectorState& state) {
  state.block.clear();
  state.block_levels.clear();
  state.shift_streak = 0;
}

}  // namespace tenax::scheduler
