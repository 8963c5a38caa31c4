// The commands that look at a run, alive or not, and the one that stops it. Each returns an
// ExitCode.
#pragma once

#include <cstdint>
#include <filesystem>

#include "tools/generate.h"

namespace tenax::tools {

struct InspectArguments {
  std::filesystem::path run_dir;
  bool json = false;
  bool csv = false;
  bool all = false;
  bool now = false;
  bool full = false;
  std::int64_t step = -1;  ///< -1: the newest, or all
};

int run_stop(const InspectArguments& arguments);
int run_journal(const InspectArguments& arguments);
int run_metrics(const InspectArguments& arguments);
int run_hash(const InspectArguments& arguments);
int run_checkpoint_list(const InspectArguments& arguments);
int run_checkpoint_verify(const InspectArguments& arguments);

struct GenerateArguments {
  std::filesystem::path run_dir;
  GenerateOptions options;
};
int run_generate(const GenerateArguments& arguments);

int run_config_keys(bool markdown);
int run_version(bool json);

}  // namespace tenax::tools
