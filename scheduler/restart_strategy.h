// Supervision in OTP's words (https://www.erlang.org/doc/system/sup_princ.html): who is restarted
// with whom, and how often before the supervisor gives up. Pure values.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/clock.h"

namespace tenax::scheduler {

enum class RestartKind : std::uint8_t {
  kOneForOne,   ///< only the dead child: a worker process among data-parallel replicas
  kOneForAll,   ///< all children of the group: the communicators of a generation
  kRestForOne,  ///< the dead child and those started after it: an agent and its workers
};

std::string_view to_string(RestartKind kind);

struct RestartStrategy {
  RestartKind kind = RestartKind::kOneForOne;
  int intensity = 10;                         ///< at most this many restarts ...
  Duration period = std::chrono::minutes(5);  ///< ... within this time
  Duration backoff =
      std::chrono::milliseconds(0);  ///< before the second restart within the period; doubles
  Duration max_backoff = std::chrono::seconds(5);
};

/// The restarts of one supervised group, oldest first.
struct RestartHistory {
  std::vector<Time> restarts;
};

struct RestartDecision {
  bool give_up = false;   ///< the intensity is exceeded: escalate
  Duration delay{0};      ///< wait so long before starting it
  int within_period = 0;  ///< restarts in the period, this one included
};

/// Records a restart at `now` and says whether it is allowed, and when.
RestartDecision next_restart(const RestartStrategy& strategy, RestartHistory& history, Time now);

}  // namespace tenax::scheduler
