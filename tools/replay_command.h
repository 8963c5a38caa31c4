// tenax replay: computes steps of a run again and compares them with the journal. The supervisor
// starts it, too, before it pays for a rollback.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace tenax::tools {

struct ReplayArguments {
  std::filesystem::path run_dir;
  std::int64_t to = -1;    ///< -1: the newest step
  std::int64_t from = -1;  ///< step of the checkpoint to begin with, 0: the initial weights; -1:
                           ///< the newest before `to`
  bool json = false;
  // Of the supervisor:
  std::optional<std::uint64_t> checkpoint_id;
  std::uint64_t id = 0;
  std::string out;  ///< the result goes there; nothing is printed
  std::int64_t parent_pid = 0;
};

/// Returns 0 if everything agrees, 1 if not, another ExitCode if it could not be compared.
int run_replay(const ReplayArguments& arguments);

}  // namespace tenax::tools
