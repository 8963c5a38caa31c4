#include "actors/gpu_claim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "checkpoint/files.h"
#include "checkpoint/slot.h"

namespace tenax::actors {

namespace {

/// Of the file at `path` if nobody has locked it: its descriptor, locked; -1 if somebody has.
Result<int> try_lock(const std::string& path) {
  while (true) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return checkpoint::from_errno("claim a GPU in", path, errno);
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      ::close(fd);
      if (error == EWOULDBLOCK) return -1;
      if (error == EINTR) continue;
      return checkpoint::from_errno("lock", path, error);
    }
    struct stat info {};
    if (::fstat(fd, &info) == 0 && info.st_nlink > 0) return fd;
    ::close(fd);  // it was swept before it was locked
  }
}

}  // namespace

Result<GpuClaim> GpuClaim::take(std::string_view run_id, std::span<const std::string> bus_ids,
                                int preferred) {
  const int count = static_cast<int>(bus_ids.size());
  // Each GPU has a file for its first worker, one for its second, and so on: the first that is free
  // is of a GPU with the fewest.
  for (int sharers = 0;; ++sharers) {
    for (int i = 0; i < count; ++i) {
      const int index = (preferred + i) % count;
      const std::string name = fmt::format("{}-gpu-{}-{}", checkpoint::run_prefix(run_id),
                                           bus_ids[static_cast<std::size_t>(index)], sharers);
      TENAX_TRY(const int fd, try_lock(checkpoint::segment_path(name)));
      if (fd >= 0) return GpuClaim(fd, index);
    }
  }
}

GpuClaim::~GpuClaim() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace tenax::actors
