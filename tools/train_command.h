// `tenax train`: prepares the run directory and the data, starts the supervisor, shows progress,
// prints the summary.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tenax::tools {

struct TrainArguments {
  std::filesystem::path config;        ///< may be empty with `resume`
  std::vector<std::string> overrides;  ///< "key=value"
  std::filesystem::path run_dir;       ///< empty: a new one under runs/
  bool resume = false;
  bool other_arithmetic = false;  ///< go on where the processor computes other bits
};

/// Returns an ExitCode (scheduler/exit_code.h).
int run_train(const TrainArguments& arguments);

}  // namespace tenax::tools
