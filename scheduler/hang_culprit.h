// Who did not arrive: from what the ranks were waiting for when a generation was given up, the rank
// that all others wait for, directly or through one another. Pure function.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/run_types.h"

namespace tenax::scheduler {

struct Culprit {
  int rank = -1;
  /// "rank 3 did not arrive: rank 0 waits for it in all_gather (transfer 812, 4096 bytes), ..."
  std::string evidence;
};

/// `flights`: by rank that answered, its newest entries. `silent`: ranks that have not answered.
/// Follows each wait to the rank that waits for nobody. Of several such ranks the one at which most
/// waits end; a silent one before one that has answered. Nothing if nobody waits.
std::optional<Culprit> find_culprit(const std::map<int, std::vector<FlightNote>>& flights,
                                    const std::vector<int>& silent);

}  // namespace tenax::scheduler
