// The process that dies in crash tests: this test program started again with posix_spawn, so that
// nobody forks after RocksDB was opened.
#pragma once

#include <csignal>
#include <string>
#include <string_view>
#include <vector>

namespace tenax::checkpoint {

inline constexpr std::string_view kCrashChild = "--crash-child";

struct ChildResult {
  int exit_code = -1;  ///< -1 if a signal ended it
  int signal = 0;
};

/// Starts the child and waits. Modes:
///   save <run> <id> <step> <n>   saves checkpoint <id> and dies with SIGKILL at the n-th reach of
///   <step> remove <run> <id> <step>     removes <id> and dies before <step> loop <run> <seed>
///   saves, journals and removes until somebody kills it slot <prefix> <bytes> <step> seals slot 0
///   and dies while it writes slot 1 stop <prefix> <bytes> seals slot 0, stops itself, and when
///   continued overwrites and seals both
ChildResult run_crash_child(const std::vector<std::string>& args);

/// The same without waiting; returns the pid.
int spawn_crash_child(const std::vector<std::string>& args);
ChildResult wait_for(int pid);

int crash_child_main(int argc, char** argv);

}  // namespace tenax::checkpoint
