// Processes that tests start: every wait has a deadline, and whatever is left is killed at the end.
// Confined to the test's thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace tenax::testing {

using Milliseconds = std::chrono::milliseconds;

/// Stretches every deadline of the tests and of the runs they start: TENAX_TIME_SCALE, else what
/// this build needs.
double time_scale();
/// `d` stretched.
Milliseconds scaled(Milliseconds d);

/// Polls until `condition()` is true; false if that did not happen within scaled(timeout).
template <class Condition>
bool eventually(Milliseconds timeout, Condition condition);

/// How a process ended.
struct Ended {
  int exit_code = -1;  ///< -1: by a signal
  int signal = 0;      ///< 0: it exited
  bool operator==(const Ended&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Ended& ended);

/// A started process; its output goes to a file. Killed by the destructor if it still runs.
class ChildProcess {
 public:
  ChildProcess(const std::vector<std::string>& arguments, std::filesystem::path output,
               const std::filesystem::path& folder);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  /// Nothing while it runs.
  std::optional<Ended> ended();
  /// Nothing if it still runs after scaled(timeout).
  std::optional<Ended> wait(Milliseconds timeout);
  /// Standard output and error so far.
  std::string output() const;

 private:
  std::filesystem::path output_;
  pid_t pid_ = -1;
  std::optional<Ended> ended_;
};

struct CommandResult {
  Ended ended;
  std::string output;  ///< standard output and error
};

/// Runs a command to its end; killed (signal 9) after scaled(timeout).
CommandResult run_command(const std::vector<std::string>& arguments,
                          const std::filesystem::path& folder,
                          Milliseconds timeout = std::chrono::seconds(30));

void sleep_for(Milliseconds d);

template <class Condition>
bool eventually(Milliseconds timeout, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + scaled(timeout);
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    sleep_for(Milliseconds(3));
  }
  return true;
}

}  // namespace tenax::testing
