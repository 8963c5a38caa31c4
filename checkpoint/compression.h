// Compression of chunks: zstd (RFC 8878), kept only where it saves something, which weights seldom
// allow and sparse optimizer state or padding does. Pure functions. Internal to checkpoint/.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/result.h"

namespace tenax::checkpoint {

/// The frame of `plain` in `scratch`; empty if it would not save an eighth.
std::span<const std::byte> compress_if_smaller(std::span<const std::byte> plain,
                                               std::vector<std::byte>& scratch);

/// kDataLoss unless `frame` gives exactly `plain_bytes`.
Result<std::span<const std::byte>> decompress(std::span<const std::byte> frame,
                                              std::size_t plain_bytes,
                                              std::vector<std::byte>& scratch);

}  // namespace tenax::checkpoint
