// Text from a checkpoint: loads the whole model into one stage and samples token by token.
#pragma once

#include <cstdint>
#include <string>

#include "actors/run_directory.h"
#include "common/result.h"
#include "configs/run_config.h"

namespace tenax::tools {

struct GenerateOptions {
  std::int64_t step = -1;  ///< of the checkpoint; -1: the newest on the current branch
  std::int64_t tokens = 200;
  std::string prompt;
  double temperature = 0.8;  ///< 0: always the likeliest token
  std::uint64_t seed = 1;
};

/// The prompt and what the model makes of it. Blocks; about one forward pass a token.
Result<std::string> generate_text(const actors::RunDirectory& directory,
                                  const configs::RunConfig& config, const GenerateOptions& options);

}  // namespace tenax::tools
