// Changes that no single sample shows: a plateau that is higher than the loss had been, and a loss
// that falls away below its trend. Pure.
#pragma once

#include <vector>

#include "scheduler/spike_event.h"
#include "scheduler/spike_options.h"
#include "scheduler/spike_state.h"

namespace tenax::scheduler {

/// Returns whether `point` belongs to a drop and must stay out of the baseline. The baseline is
/// frozen during a drop; if the loss stays down it is adopted.
bool observe_drop(const SpikeOptions& options, const MetricPoint& point, SpikeDetectorState& state,
                  std::vector<SpikeEvent>& events);

/// Takes an accepted sample into its block; compares the median of a full block with the lowest one
/// remembered.
void observe_block(const SpikeOptions& options, const MetricPoint& point, SpikeDetectorState& state,
                   std::vector<SpikeEvent>& events);

/// Makes the newest losses the baseline.
void adopt_recent(const SpikeOptions& options, SpikeDetectorState& state);

/// Forgets what later plateaus are compared with.
void forget_blocks(SpikeDetectorState& state);

}  // namespace tenax::scheduler
