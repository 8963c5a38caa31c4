// What single keys cannot show to be wrong: keys that contradict each other. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "configs/run_config.h"

namespace tenax::configs {

struct Contradiction {
  std::vector<std::string> keys;  ///< that it is about
  std::string message;            ///< with the numbers
};

std::vector<Contradiction> find_contradictions(const RunConfig& config);

/// The messages alone; empty if the configuration can be run.
std::vector<std::string> cross_check(const RunConfig& config);

}  // namespace tenax::configs
