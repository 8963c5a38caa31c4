// tenax rollback: the operator sends a run back to a step, with or without its samples.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace tenax::tools {

struct RollbackArguments {
  std::filesystem::path run_dir;
  std::int64_t to = -1;
  std::string skip;  ///< "FIRST:LAST", steps of the current branch, both inclusive; empty: none
  double lr_factor = 1;
  std::int64_t lr_steps = 0;
  bool dry_run = false;
  bool json = false;
};

/// Asks a live supervisor, or decides and journals itself if the run is stopped; a dry run only
/// says what would be decided now. Returns an ExitCode.
int run_rollback(const RollbackArguments& arguments);

}  // namespace tenax::tools
