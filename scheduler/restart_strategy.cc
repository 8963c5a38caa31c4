#include "scheduler/restart_strategy.h"

#include <algorithm>

namespace tenax::scheduler {

std::string_view to_string(RestartKind kind) {
  switch (kind) {
    case RestartKind::kOneForOne:
      return "one_for_one";
    case RestartKind::kOneForAll:
      return "one_for_all";
    case RestartKind::kRestForOne:
      return "rest_for_one";
  }
  return "unknown";
}

RestartDecision next_restart(const RestartStrategy& strategy, RestartHistory& history, Time now) {
  std::erase_if(history.restarts, [&](Time t) { return now - t > strategy.period; });
  history.restarts.push_back(now);
  const int count = static_cast<int>(history.restarts.size());
  RestartDecision decision;
  decision.within_period = count;
  decision.give_up = count > strategy.intensity;
  if (count > 1 && strategy.backoff.count() > 0) {
    const int doublings = std::min(count - 2, 20);
    decision.delay =
        std::min(strategy.max_backoff, Duration(strategy.backoff.count() << doublings));
  }
  return decision;
}

}  // namespace tenax::scheduler
