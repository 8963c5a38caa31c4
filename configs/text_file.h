// Reads a configuration file whole. No thread rule.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "common/result.h"

namespace tenax::configs {

/// kNotFound, kPermission or kIo: "reading <what> <path>: <reason>".
Result<std::string> read_text_file(const std::filesystem::path& path, std::string_view what);

}  // namespace tenax::configs
