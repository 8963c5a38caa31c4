#include "checkpoint/compression.h"

#include <fmt/format.h>
#include <zstd.h>

namespace tenax::checkpoint {

namespace {

constexpr int kLevel = 1;  // faster than most disks; higher levels gain little on floats

}  // namespace

std::span<const std::byte> compress_if_smaller(std::span<const std::byte> plain,
                                               std::vector<std::byte>& scratch) {
  scratch.resize(ZSTD_compressBound(plain.size()));
  const std::size_t n =
      ZSTD_compress(scratch.data(), scratch.size(), plain.data(), plain.size(), kLevel);
  if (ZSTD_isError(n) != 0 || n + plain.size() / 8 > plain.size()) return {};
  return std::span<const std::byte>(scratch).first(n);
}

Result<std::span<const std::byte>> decompress(std::span<const std::byte> frame,
                                              std::size_t plain_bytes,
                                              std::vector<std::byte>& scratch) {
  scratch.resize(plain_bytes);
  const std::size_t n = ZSTD_decompress(scratch.data(), scratch.size(), frame.data(), frame.size());
  if (ZSTD_isError(n) != 0) {
    return make_error(ErrorCode::kDataLoss, fmt::format("zstd frame of {} bytes: {}", frame.size(),
                                                        ZSTD_getErrorName(n)));
  }
  if (n != plain_bytes) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("zstd frame gives {} bytes, expected {}", n, plain_bytes));
  }
  return std::span<const std::byte>(scratch);
}

}  // namespace tenax::checkpoint
