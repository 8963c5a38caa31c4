#include "checkpoint/pin.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <utility>

#include "checkpoint/files.h"

namespace tenax::checkpoint {

Result<Pin> Pin::take(const std::string& run_path, std::uint64_t checkpoint_id) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::string path = fmt::format("{}/pins/{}.XXXXXX", run_path, checkpoint_id);
    const int fd = ::mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0) return from_errno("create pin", path, errno);
    // Between creation and lock the store may have taken the file for a dead process's and unlinked
    // it.
    struct stat info {};
    if (::flock(fd, LOCK_SH | LOCK_NB) == 0 && ::fstat(fd, &info) == 0 && info.st_nlink > 0) {
      return Pin(fd, std::move(path));
    }
    ::close(fd);
  }
  return make_error(ErrorCode::kUnavailable,
                    fmt::format("pin checkpoint {} in {}: lost every race against the store",
                                checkpoint_id, run_path));
}

Pin::~Pin() {
  if (fd_ < 0) return;
  ::unlink(path_.c_str());
  ::close(fd_);
}

Pin::Pin(Pin&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

Pin& Pin::operator=(Pin&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

Result<bool> is_pinned(const std::string& run_path, std::uint64_t checkpoint_id) {
  const std::string directory = run_path + "/pins";
  const std::string prefix = fmt::format("{}.", checkpoint_id);
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(directory.c_str()), ::closedir);
  if (!dir) return from_errno("list", directory, errno);
  bool pinned = false;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    if (name.rfind(prefix, 0) != 0) continue;
    const std::string path = directory + "/" + name;
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      ::unlink(path.c_str());
    } else {
      pinned = true;
    }
    ::close(fd);
  }
  return pinned;
}

}  // namespace tenax::checkpoint
