// Files as this room needs them: errno as an Error, durable directory entries. Internal to
// checkpoint/.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace tenax::checkpoint {

/// "<doing> <path>: <strerror>" with the code a caller can act on.
Error from_errno(std::string_view doing, const std::string& path, int error);

/// mkdir -p for the last component; an existing directory is fine.
Status make_directory(const std::string& path);

/// fsync of the directory: its entries survive a power failure.
Status sync_directory(const std::string& path);

/// Unlinks the files of a directory whose names start with `prefix`. Returns how many there were.
Result<int> remove_files(const std::string& directory, std::string_view prefix);

}  // namespace tenax::checkpoint
