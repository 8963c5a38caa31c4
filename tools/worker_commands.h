// Commands that change how many workers a living run has. Each returns an ExitCode.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace tenax::tools {

struct DrainArguments {
  std::filesystem::path run_dir;
  std::uint32_t agent = 0;
};
int run_drain(const DrainArguments& arguments);

struct ScaleArguments {
  std::filesystem::path run_dir;
  int workers = 0;  ///< 0: not given
  int dp = 0;
  int pp = 0;
};
int run_scale(const ScaleArguments& arguments);

struct JoinArguments {
  std::string run;                ///< the run's directory, or tcp://HOST:PORT of its supervisor
  std::filesystem::path run_dir;  ///< with an address: where this host has the run's directory
  std::uint32_t workers = 1;
};
/// Becomes an agent of the run, until it ends or does without it.
int run_join(const JoinArguments& arguments);

}  // namespace tenax::tools
