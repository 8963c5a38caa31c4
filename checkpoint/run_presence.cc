#include "checkpoint/run_presence.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "checkpoint/files.h"
#include "checkpoint/slot.h"

namespace tenax::checkpoint {

namespace {

/// `run`: what a segment's name begins with, "tenax-<run id>".
std::string path_of(std::string_view run) { return segment_path(std::string(run) + "-presence"); }

}  // namespace

Result<RunPresence> RunPresence::announce(std::string_view run_id) {
  const std::string path = path_of(run_prefix(run_id));
  while (true) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return from_errno("announce the run in", path, errno);
    RunPresence presence(fd);
    while (::flock(fd, LOCK_SH) != 0) {
      if (errno != EINTR) return from_errno("lock", path, errno);
    }
    struct stat info {};
    if (::fstat(fd, &info) == 0 && info.st_nlink > 0) return presence;
    // It was swept before it was locked.
  }
}

RunPresence::~RunPresence() {
  if (fd_ >= 0) ::close(fd_);
}

bool is_run_present(std::string_view name) {
  const std::size_t agent = name.find('-', name.find('-') + 1);
  const int fd = ::open(path_of(name.substr(0, agent)).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  const bool held = ::flock(fd, LOCK_EX | LOCK_NB) != 0;
  ::close(fd);
  return held;
}

}  // namespace tenax::checkpoint
