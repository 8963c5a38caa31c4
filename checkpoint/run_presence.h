// Says that a run lives on this host, for as long as a process of it does: between the death of
// its workers and their replacement nobody holds its slots, and whoever sweeps shared memory must
// leave them alone. A lock (flock) on a small shared-memory file beside the slots, which the kernel
// drops with the process.
#pragma once

#include <string_view>
#include <utility>

#include "common/result.h"

namespace tenax::checkpoint {

/// Moves, does not copy; the presence ends with the last one of the run on this host.
class RunPresence {
 public:
  static Result<RunPresence> announce(std::string_view run_id);
  ~RunPresence();
  RunPresence(RunPresence&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  RunPresence& operator=(RunPresence&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

 private:
  explicit RunPresence(int fd) : fd_(fd) {}
  int fd_ = -1;
};

/// Whether the run that the segment `name` belongs to is announced.
bool is_run_present(std::string_view name);

}  // namespace tenax::checkpoint
