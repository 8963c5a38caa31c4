// A reader's pin: while it lives, in whatever process, its checkpoint is not removed. A pin is a
// locked file in <run>/pins, so one of a dead process counts no more.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"

namespace tenax::checkpoint {

class Pin {
 public:
  /// Pins `checkpoint_id` of the store at `run_path`. The checkpoint may have been removed just
  /// before: look for its manifest after pinning.
  static Result<Pin> take(const std::string& run_path, std::uint64_t checkpoint_id);
  ~Pin();
  Pin(Pin&& other) noexcept;
  Pin& operator=(Pin&& other) noexcept;

 private:
  Pin(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
};

/// True if some live process holds a pin. Removes pins of the dead.
Result<bool> is_pinned(const std::string& run_path, std::uint64_t checkpoint_id);

}  // namespace tenax::checkpoint
