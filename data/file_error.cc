#include "data/file_error.h"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>

namespace tenax::data {

namespace {

ErrorCode code_of(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return ErrorCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorCode::kPermission;
    case ENOSPC:
    case EDQUOT:
      return ErrorCode::kNoSpace;
    default:
      return ErrorCode::kIo;
  }
}

}  // namespace

Error file_error(std::string_view doing, const std::filesystem::path& path, int error_number) {
  return make_error(code_of(error_number),
                    fmt::format("{} {}: {}", doing, path.string(),
                                std::generic_category().message(error_number)));
}

}  // namespace tenax::data
