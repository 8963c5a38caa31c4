#include "checkpoint/direct_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <new>

#include "checkpoint/files.h"
#include "common/huge_pages.h"

namespace tenax::checkpoint {

namespace {

std::uint64_t round_up(std::uint64_t bytes, std::uint64_t alignment = kDirectAlignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes) {
  // A request to the disk has a few hundred places for stretches of memory, each a page where pages
  // are small: a buffer of huge pages is read or written in one request, and a third faster.
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kDirectAlignment;
  bytes_ = round_up(bytes, alignment);
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, bytes_)));
  if (!data_) throw std::bad_alloc();
  if (alignment == kHugePage) want_huge_pages(data_.get(), bytes_);
}

int open_direct(const std::string& path, int flags, int mode) {
  const int fd = ::open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, mode);
  if (fd >= 0 || errno != EINVAL) return fd;
  return ::open(path.c_str(), flags | O_CLOEXEC, mode);
}

Result<std::shared_ptr<const RangeFile>> RangeFile::open(const std::string& path, Cache cache) {
  const int fd = cache == Cache::kBypass ? open_direct(path, O_RDONLY)
                                         : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return from_errno("open", path, errno);
  return std::shared_ptr<const RangeFile>(new RangeFile(fd, path));
}

RangeFile::~RangeFile() { ::close(fd_); }

Result<std::span<const std::byte>> RangeFile::read(std::uint64_t offset, std::size_t bytes,
                                                   AlignedBuffer& buffer) const {
  const std::size_t before = offset % kDirectAlignment;
  const std::size_t wanted = round_up(before + bytes);
  if (buffer.bytes() < wanted) buffer = AlignedBuffer(wanted);
  std::size_t have = 0;
  while (have < before + bytes) {
    const ssize_t n = ::pread(fd_, buffer.data() + have, wanted - have,
                              static_cast<off_t>(offset - before + have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return from_errno("read", path_, errno);
    if (n == 0) {
      return make_error(ErrorCode::kDataLoss, fmt::format("{} ends at byte {}, expected {}", path_,
                                                          offset - before + have, offset + bytes));
    }
    have += static_cast<std::size_t>(n);
  }
  return std::span<const std::byte>(buffer.data() + before, bytes);
}

}  // namespace tenax::checkpoint
