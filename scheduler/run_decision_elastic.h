// What an operator may ask about the number of workers, and why not. Pure functions, for the
// controller and for whoever answers the operator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "scheduler/run_state.h"

namespace tenax::scheduler {

/// Why this agent cannot be drained; empty if it can.
std::string refusal_of_drain(const RunState& state, const ControllerOptions& options,
                             std::uint32_t agent);
/// Why the run cannot have this layout; empty if it can.
std::string refusal_of_scale(const RunState& state, const ControllerOptions& options,
                             const Degrees& target);
/// The layout for so many workers, more replicas than now if need be; nothing if there is none.
std::optional<Degrees> scaled_target(const RunState& state, const ControllerOptions& options,
                                     int workers);

}  // namespace tenax::scheduler
