#include "scheduler/spike_hard_triggers.h"

#include <fmt/format.h>

#include <bit>
#include <cstdint>
#include <string>
#include <utility>

#include "scheduler/spike_measure.h"

namespace tenax::scheduler {
namespace {

/// A gap this many times the last one is a hole in the reports.
constexpr std::int64_t kGapFactor = 3;

std::string ordinal(std::int64_t n) {
  const char* suffix = n % 100 / 10 == 1 ? "th"
                       : n % 10 == 1     ? "st"
                       : n % 10 == 2     ? "nd"
                       : n % 10 == 3     ? "rd"
                                         : "th";
  return fmt::format("{}{}", n, suffix);
}

void observe_bad_sample(const SpikeOptions& options, const MetricPoint& point,
                        SpikeDetectorState& state, std::vector<SpikeEvent>& events) {
  const SpikeMeasure measure(options, state);
  if (state.bad_streak == 0) state.bad_onset = point.step;
  ++state.bad_streak;
  if (state.bad_streak > options.non_finite_patience) return;
  const bool zero = point.loss == 0;
  const std::string what = zero ? "the loss is exactly zero"
                           : !is_usable(point.loss)
                               ? fmt::format("the loss is {}", point.loss)
                               : fmt::format("the gradient norm is {}", *point.grad_norm);
  const bool give_up = state.bad_streak == options.non_finite_patience;
  SpikeEvent bad = measure.event(
      point, zero ? SpikeVerdict::kLossZero : SpikeVerdict::kNonFinite,
      give_up ? SpikeAction::kRollBack : SpikeAction::kSkipUpdate,
      give_up
          ? fmt::format("{}, the {} sample in a row without usable numbers since step {}: skipping "
                        "updates does not help",
                        what, ordinal(state.bad_streak), state.bad_onset)
          : what + (point.update_skipped ? "; the guard skipped the update"
                                         : "; its update must be skipped"));
  bad.onset = state.bad_onset;
  events.push_back(std::move(bad));
}

void observe_overflow(const SpikeOptions& options, const MetricPoint& point, bool overflow,
                      SpikeDetectorState& state, std::vector<SpikeEvent>& events) {
  const SpikeMeasure measure(options, state);
  state.overflows = ((state.overflows << 1) | (overflow ? 1U : 0U)) & 0xFFU;
  const int burst = std::popcount(state.overflows);
  const bool too_many = burst >= options.overflow_burst && !measure.in_warmup();
  if (!too_many) state.overflow_reported = false;
  if (!overflow || state.overflow_reported) return;
  state.overflow_reported = too_many;
  events.push_back(measure.event(
      point, SpikeVerdict::kOverflow, too_many ? SpikeAction::kRollBack : SpikeAction::kSkipUpdate,
      fmt::format("the gradient norm is {} while the loss {:.4g} is finite, in {} of the last 8 "
                  "samples; {}",
                  *point.grad_norm, point.loss, burst,
                  too_many ? "more than loss scaling explains" : "the update is skipped")));
}

}  // namespace

bool observe_missing(const SpikeOptions& options, const MetricPoint& point,
                     SpikeDetectorState& state, std::vector<SpikeEvent>& events) {
  const SpikeMeasure measure(options, state);
  const std::int64_t gap = state.last_step < 0 ? 0 : point.step - state.last_step;
  const bool hole = state.last_gap > 0 && gap > kGapFactor * state.last_gap;
  if (hole)
    events.push_back(measure.event(
        point, SpikeVerdict::kMissingReports, SpikeAction::kNone,
        fmt::format("no report for {} steps after step {}; they came every {} steps before",
                    gap - 1, state.last_step, state.last_gap)));
  state.last_gap = gap;
  state.last_step = point.step;
  if (!point.missing) {
    state.missing_streak = 0;
    return false;
  }
  if (state.missing_streak == 0) state.missing_onset = point.step;
  if (++state.missing_streak == options.missing_patience) {
    SpikeEvent missing =
        measure.event(point, SpikeVerdict::kMissingReports, SpikeAction::kReplayStep,
                      fmt::format("{} reports in a row from step {} on came without a loss",
                                  state.missing_streak, state.missing_onset));
    missing.onset = state.missing_onset;
    events.push_back(std::move(missing));
  }
  return true;
}

bool observe_non_finite(const SpikeOptions& options, const MetricPoint& point,
                        SpikeDetectorState& state, std::vector<SpikeEvent>& events) {
  const bool overflow = point.grad_norm && !is_usable(*point.grad_norm);
  if (!is_usable(point.loss) || point.loss == 0 || (overflow && !options.fp16_loss_scaling)) {
    observe_bad_sample(options, point, state, events);
    return true;
  }
  state.bad_streak = 0;
  if (options.fp16_loss_scaling) observe_overflow(options, point, overflow, state, events);
  return false;
}

}  // namespace tenax::scheduler
