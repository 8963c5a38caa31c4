// Small pieces of writing a file so that it is either there and whole or not there: write, sync,
// rename, sync the folder. errno becomes an Error here.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "common/result.h"

namespace tenax::data {

/// "<doing> <path>: <reason of error_number>" with the code that a caller acts on.
Error file_error(std::string_view doing, const std::filesystem::path& path, int error_number);

/// Writes all bytes or returns false with errno set.
bool write_all(int fd, std::span<const std::byte> bytes);

/// Makes a rename inside the folder of `path` durable.
Status sync_folder_of(const std::filesystem::path& path);

/// The name under which a file is written before it is renamed to `path`; of this process alone.
std::filesystem::path temporary_path_for(const std::filesystem::path& path);

/// Replaces `path` by `content` durably. On an error the old file is still there.
Status write_file(const std::filesystem::path& path, std::string_view content);

/// kNotFound, kPermission, kIo.
Result<std::string> read_file(const std::filesystem::path& path);

}  // namespace tenax::data
