// The messages that actors of one process send each other, and the settings of its actor system.
// In-process only: nothing here is ever serialised by CAF (between processes wire/ speaks).
#pragma once

#include <sys/types.h>

#include <caf/all.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "wire/message.h"

namespace tenax::actors {

/// A decoded control message. `peer` is the routing id it came from, empty on a dialled socket.
struct Frame {
  int socket = -1;
  std::string peer;
  std::shared_ptr<const wire::Message> message;
};

/// A watched process ended and was reaped.
struct ChildExited {
  std::uint64_t token = 0;
  pid_t pid = 0;
  std::string status;
};

/// Actor system settings: the "sharing" scheduler idles at 1 % of a core where work stealing takes
/// 20 (measured for timers).
struct ActorConfig : caf::actor_system_config {
  explicit ActorConfig(std::size_t threads) {
    set("scheduler.policy", caf::atom("sharing"));
    set("scheduler.max-threads", threads);
  }
};

/// Turns an exception that escapes a handler into the actor's exit reason, text and all.
caf::error to_exit_reason(std::exception_ptr& exception);

using StartAtom = caf::atom_constant<caf::atom("start")>;
using TickAtom = caf::atom_constant<caf::atom("tick")>;

}  // namespace tenax::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::Frame)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::ChildExited)
