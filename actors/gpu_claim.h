// Which of a host's GPUs a worker computes on: those of all agents of a run on one host spread over
// its GPUs evenly, each with one of its own as long as there are enough. A claim is a lock on an
// empty file beside the run's slots, named for the GPU's place on the bus, that the kernel drops
// with its process; agents whose /dev/shm is not the same do not see each other's. Owner; movable.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"

namespace tenax::actors {

class GpuClaim {
 public:
  /// Claims one of `bus_ids` (not empty) that as few others of the run have as any: where several
  /// are equal, number `preferred`, or the next behind it in a circle. kPermission, kIo or kNoSpace
  /// if no lock can be made.
  static Result<GpuClaim> take(std::string_view run_id, std::span<const std::string> bus_ids,
                               int preferred);
  GpuClaim(GpuClaim&& other) noexcept : fd_(std::exchange(other.fd_, -1)), index_(other.index_) {}
  GpuClaim& operator=(GpuClaim&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(index_, other.index_);
    return *this;
  }
  ~GpuClaim();

  /// In `bus_ids`.
  int index() const { return index_; }

 private:
  GpuClaim(int fd, int index) : fd_(fd), index_(index) {}

  int fd_ = -1;
  int index_ = 0;
};

}  // namespace tenax::actors
