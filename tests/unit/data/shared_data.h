// The folder with large test inputs that is not part of the repository: $TENAX_SHARED_DATA or
// ../shared/data.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace tenax::data {

inline std::filesystem::path shared_data(std::string_view name) {
  const char* folder = std::getenv("TENAX_SHARED_DATA");
  const std::filesystem::path base =
      folder != nullptr ? std::filesystem::path(folder)
                        : std::filesystem::path(TENAX_SOURCE_DIR) / ".." / "shared" / "data";
  return base / name;
}

/// Skips the test, with the reason, if `path` is absent.
#define TENAX_SKIP_WITHOUT(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << (path)

}  // namespace tenax::data
