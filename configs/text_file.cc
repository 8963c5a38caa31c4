#include "configs/text_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <system_error>

namespace tenax::configs {

Result<std::string> read_text_file(const std::filesystem::path& path, std::string_view what) {
  std::error_code ignored;
  const bool is_folder = std::filesystem::is_directory(path, ignored);
  std::ifstream file(path, std::ios::binary);
  if (!file || is_folder) {
    const int reason = is_folder ? EISDIR : errno;
    const ErrorCode code = reason == ENOENT || reason == ENOTDIR ? ErrorCode::kNotFound
                           : reason == EACCES                    ? ErrorCode::kPermission
                                                                 : ErrorCode::kIo;
    return make_error(code, fmt::format("reading {} {}: {}", what, path.string(),
                                        std::generic_category().message(reason)));
  }
  return std::string{std::istreambuf_iterator<char>(file), {}};
}

}  // namespace tenax::configs
