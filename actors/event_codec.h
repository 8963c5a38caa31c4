// From control messages to the controller's events. Pure functions.
#pragma once

#include <optional>

#include "scheduler/run_events.h"
#include "wire/message.h"

namespace tenax::actors {

/// Nothing for messages that are no events: heartbeats, rendezvous, and everything a supervisor
/// sends.
std::optional<scheduler::Event> to_event(const wire::Message& message);

}  // namespace tenax::actors
