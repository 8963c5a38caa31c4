// A worker process: one rank's engine under an actor that talks to the agent. Dies with its agent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace tenax::actors {

struct WorkerOptions {
  std::filesystem::path run_dir;
  std::string agent_endpoint;
  std::uint32_t agent = 0;
  std::uint64_t agent_incarnation = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  int parent_pid = 0;
};

/// Runs until the agent says shutdown or dies. Returns the process's exit code.
int run_worker(const WorkerOptions& options);

}  // namespace tenax::actors
