// File patterns: '*' stands for any characters of one name, '?' for one, '**' alone for any number
// of folders (also none). Pure but for reading folders.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace tenax::data {

/// Whether `name`, a single component, matches `pattern`.
bool matches_name(std::string_view pattern, std::string_view name);

/// The files that match `pattern` (relative to `base_dir`, or absolute), each once, in no
/// particular order. Below a wildcard, folders of build products and tools are not entered: build*,
/// runs, node_modules and those with a leading dot; neither are links to folders. An empty list if
/// nothing matches; kPermission or kIo if a folder on the way cannot be read.
Result<std::vector<std::filesystem::path>> expand_pattern(const std::filesystem::path& base_dir,
                                                          std::string_view pattern);

}  // namespace tenax::data
