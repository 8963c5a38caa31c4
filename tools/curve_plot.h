// A loss curve with the detector's verdicts as an SVG picture without dependencies. Pure.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "scheduler/spike_event.h"

namespace tenax::tools {

/// Draws the finite losses (as the band from lowest to highest in each pixel column), and one
/// marker for each event with its reason as a tooltip. The loss axis is logarithmic where the
/// losses span more than a factor of 8.
std::string plot_curve(std::string_view title, std::span<const scheduler::MetricPoint> points,
                       std::span<const scheduler::SpikeEvent> events);

}  // namespace tenax::tools
