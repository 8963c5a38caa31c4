// How far a loss is from the baseline, in the detector's terms. Read-only view; neither owns nor
// keeps anything.
#pragma once

#include <cstdint>
#include <string>

#include "scheduler/spike_event.h"
#include "scheduler/spike_options.h"
#include "scheduler/spike_state.h"

namespace tenax::scheduler {

/// Valid while both references are.
class SpikeMeasure {
 public:
  SpikeMeasure(const SpikeOptions& options, const SpikeDetectorState& state)
      : options_(options), state_(state) {}

  /// Too little has been seen to judge by.
  bool in_warmup() const;
  /// Within an announced ramp.
  bool in_ramp(std::int64_t step) const { return step <= state_.ramp_until; }
  /// A loss so far above the baseline is suspicious; positive.
  double suspicious_rise(std::int64_t step) const;
  /// Excess over the baseline in robust sigmas after the floors.
  double score(double loss, std::int64_t step) const;
  bool loss_suspicious(const MetricPoint& point) const;
  /// Whether the newest `confirm_of` losses together weigh as much as `confirm_count` suspicious
  /// ones: the sum of their scores, each taken as at least 0 and at most `sigmas`. So three losses
  /// at 4 sigmas confirm like two at 6, and no single loss does.
  bool confirmed(std::int64_t step) const;
  bool grad_norm_suspicious(const MetricPoint& point) const;
  /// The newest losses are near the baseline again.
  bool back_to_normal(std::int64_t step) const;
  /// As bad as the run's first losses.
  bool diverged(double loss) const;
  /// Below the baseline by more than noise and trend explain.
  bool dropped(double loss, std::int64_t step) const;
  /// Median of the newest losses, flagged or not.
  double recent_median(std::int32_t samples) const;
  /// With loss, baseline, score, and the onset of the current excursion, or the point's step if
  /// there is none.
  SpikeEvent event(const MetricPoint& point, SpikeVerdict verdict, SpikeAction action,
                   std::string reason) const;

 private:
  const SpikeOptions& options_;
  const SpikeDetectorState& state_;
};

/// A number that can be reckoned with: finite, and not so large that sums of squares would not be.
bool is_usable(double value);

}  // namespace tenax::scheduler
