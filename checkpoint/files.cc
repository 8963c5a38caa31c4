#include "checkpoint/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace tenax::checkpoint {

Error from_errno(std::string_view doing, const std::string& path, int error) {
  ErrorCode code = ErrorCode::kIo;
  if (error == ENOENT) code = ErrorCode::kNotFound;
  // EFAULT is what populating a mapping gives where its file system is full.
  if (error == ENOSPC || error == EDQUOT || error == ENOMEM || error == EFAULT) {
    code = ErrorCode::kNoSpace;
  }
  if (error == EACCES || error == EPERM || error == EROFS) code = ErrorCode::kPermission;
  return make_error(code, fmt::format("{} {}: {}", doing, path, std::strerror(error)));
}

Status make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
    return from_errno("create directory", path, errno);
  }
  return {};
}

Status sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return from_errno("open directory", path, errno);
  const bool synced = ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  if (!synced) return from_errno("sync directory", path, error);
  return {};
}

Result<int> remove_files(const std::string& directory, std::string_view prefix) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(directory.c_str()), ::closedir);
  if (!dir) return from_errno("list", directory, errno);
  int count = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == ".." || name.rfind(prefix, 0) != 0) continue;
    const std::string path = directory + "/" + name;
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return from_errno("remove", path, errno);
    ++count;
  }
  return count;
}

}  // namespace tenax::checkpoint
