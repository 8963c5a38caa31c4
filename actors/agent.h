// An agent process: one a host. Owns the worker processes, their shared-memory slots and the
// writing of checkpoints; relays between its workers and the supervisor. Outlives a supervisor by
// supervisor_grace.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace tenax::actors {

struct AgentOptions {
  std::filesystem::path run_dir;
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  bool join = false;          ///< nobody started it: it asks the supervisor for a place
  std::uint32_t workers = 1;  ///< if it joins: how many it will run
  std::string endpoint;       ///< if it joins: of the supervisor; empty: the run directory says it
};

/// Runs until the supervisor says shutdown (exit code 0) or stays away for supervisor_grace (75).
/// One that joins exits 4 when no supervisor answers and 3 when it is refused.
int run_agent(const AgentOptions& options);

}  // namespace tenax::actors
