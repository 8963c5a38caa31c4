// After a restart the steps behind the loaded checkpoint are computed again; their metrics must be
// those that were journalled. A difference means that the restored state is not the saved one, or
// that a device computes wrongly.
#pragma once

#include <optional>

#include "scheduler/spike_event.h"

namespace tenax::scheduler {

/// A kRestoreMismatch with both numbers, or nothing where loss and gradient norm agree. `tolerance`
/// is relative: 0 where the run is reproducible bit for bit, else the spread measured between runs.
/// NaN agrees with NaN. Precondition: both points are of one step.
std::optional<SpikeEvent> compare_replayed(const MetricPoint& journalled,
                                           const MetricPoint& replayed, double tolerance);

}  // namespace tenax::scheduler
