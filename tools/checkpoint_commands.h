// tenax checkpoint show, diff and prune.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/result.h"

namespace tenax::tools {

struct ShowArguments {
  std::filesystem::path run_dir;
  std::int64_t step = -1;  ///< -1: the newest
  bool tensors = false;
  bool json = false;
};
/// Returns an ExitCode.
int run_checkpoint_show(const ShowArguments& arguments);

/// A checkpoint as the command line names it.
struct CheckpointName {
  std::filesystem::path run_dir;
  std::int64_t step = -1;  ///< -1: the newest
  bool operator==(const CheckpointName&) const = default;
};
/// "RUN" or "RUN:STEP"; "STEP" alone is a step of `same_run`, if that is given.
CheckpointName parse_checkpoint_name(const std::string& text,
                                     const std::filesystem::path& same_run);

struct DiffArguments {
  std::string first;
  std::string second;
  bool all = false;  ///< list equal tensors too
  bool json = false;
};
/// Returns 0 if every tensor is equal bit for bit, 1 if not, an ExitCode otherwise.
int run_checkpoint_diff(const DiffArguments& arguments);

struct PruneArguments {
  std::filesystem::path run_dir;
  int keep_last = -1;  ///< -1: as configured
  bool dry_run = false;
  bool json = false;
};
/// Deletes what retention would not keep; refused while a supervisor holds the store. The newest
/// verified checkpoint and its predecessor stay (C3), and what a reader holds. Returns an ExitCode.
int run_checkpoint_prune(const PruneArguments& arguments);

}  // namespace tenax::tools
