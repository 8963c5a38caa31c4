// tenax spikes: what the detector and the guard of a run said, and the samples behind its rollbacks
// as text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>

namespace tenax::tools {

struct SpikesArguments {
  std::filesystem::path run_dir;
  bool show = false;     ///< the kept samples with the highest losses, as text
  std::int64_t top = 5;  ///< so many of each kept file
  std::string file;      ///< only this one ("branch0-step30"); empty: all
  bool json = false;
};

/// Returns an ExitCode.
int run_spikes(const SpikesArguments& arguments, std::ostream& out);

}  // namespace tenax::tools
