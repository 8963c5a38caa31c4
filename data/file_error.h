// errno as an Error, for the files of this room.
#pragma once

#include <filesystem>
#include <string_view>

#include "common/result.h"

namespace tenax::data {

/// "<doing> <path>: <reason of error_number>" with the code that a caller acts on.
Error file_error(std::string_view doing, const std::filesystem::path& path, int error_number);

}  // namespace tenax::data
