// Memory and files for I/O past the page cache (O_DIRECT): a checkpoint is written once and seldom
// read, and must not push the training data out of memory. Internal to checkpoint/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "common/result.h"

namespace tenax::checkpoint {

/// Offsets, lengths and addresses of direct I/O are multiples of this: the largest block size in
/// use.
inline constexpr std::size_t kDirectAlignment = 4096;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Rounds `bytes` up to the alignment, or from 2 MiB on to huge pages where there are any.
  explicit AlignedBuffer(std::size_t bytes);
  std::byte* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_ = 0;
};

/// open() with O_DIRECT, or without where the file system has none. -1 with errno on failure.
int open_direct(const std::string& path, int flags, int mode = 0);

/// A file of which ranges are read, by any number of threads.
class RangeFile {
 public:
  enum class Cache { kBypass, kUse };  ///< the page cache

  static Result<std::shared_ptr<const RangeFile>> open(const std::string& path,
                                                       Cache cache = Cache::kBypass);
  ~RangeFile();
  RangeFile(const RangeFile&) = delete;
  RangeFile& operator=(const RangeFile&) = delete;

  /// `bytes` from `offset`, in `buffer`, which grows if need be; valid until the buffer is used
  /// again. kDataLoss if the file ends before.
  Result<std::span<const std::byte>> read(std::uint64_t offset, std::size_t bytes,
                                          AlignedBuffer& buffer) const;

 private:
  RangeFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_;
  std::string path_;
};

}  // namespace tenax::checkpoint
