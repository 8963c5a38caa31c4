// Which rank holds the others up: its own work in a step, waits left out, against that of the ranks
// that do the same work and against its own past. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/run_types.h"

namespace tenax::scheduler {

/// What a worker's agent says of its pace.
struct RankPace {
  double busy_seconds = 0;  ///< of a step, waits left out; moving average of some 20 steps
  double past_seconds = 0;  ///< the same over some 200 steps
  std::int64_t steps = 0;   ///< that the averages are over
};

struct StragglerScore {
  double against_peers = 1;  ///< busy time over the median of the ranks of its stage
  double against_past = 1;   ///< over its own long average
  double score() const { return against_peers > against_past ? against_peers : against_past; }
  bool straggles = false;
  std::string text;  ///< one sentence with the numbers
};

/// By rank. A rank straggles from a score of 1.5 on and until it is below 1.25 again (`before`: who
/// straggled so far). Ranks with fewer than 20 steps are not judged, and differences below 2 ms a
/// step are none. Where a stage has one rank, all ranks are its peers.
std::map<int, StragglerScore> straggler_scores(const Degrees& degrees,
                                               const std::map<int, RankPace>& paces,
                                               const std::map<int, bool>& before);

}  // namespace tenax::scheduler
