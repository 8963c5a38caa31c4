// Points of the metric series that need no statistics: no loss, no number, exactly zero, fp16
// overflow. Pure.
#pragma once

#include <vector>

#include "scheduler/spike_event.h"
#include "scheduler/spike_options.h"
#include "scheduler/spike_state.h"

namespace tenax::scheduler {

/// Watches for holes in the reports. Returns whether `point` has no loss, so that there is nothing
/// more to read.
bool observe_missing(const SpikeOptions& options, const MetricPoint& point,
                     SpikeDetectorState& state, std::vector<SpikeEvent>& events);

/// Counts unusable numbers and, under fp16 loss scaling, overflows. Returns whether `point` is
/// unusable.
bool observe_non_finite(const SpikeOptions& options, const MetricPoint& point,
                        SpikeDetectorState& state, std::vector<SpikeEvent>& events);

}  // namespace tenax::scheduler
