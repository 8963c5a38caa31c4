// Which numbers dropout keeps: compute/dropout.h's masks, made anew by every thread that needs
// them.
#pragma once

#include "compute/cuda/device_code.h"
#include "compute/dropout_row.h"

namespace tenax::cuda {

/// compute/dropout.h's dropout_row(): the first half of a block of Philox4x32-10
/// (doi:10.1145/2063384.2063405).
__device__ inline compute::DropoutRow dropout_row(std::uint64_t key, std::int32_t threshold,
                                                  float scale, std::int64_t sample,
                                                  std::int64_t row) {
  std::uint32_t c0 = static_cast<std::uint32_t>(row);
  std::uint32_t c1 = static_cast<std::uint32_t>(static_cast<std::uint64_t>(row) >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(sample);
  std::uint32_t c3 = static_cast<std::uint32_t>(static_cast<std::uint64_t>(sample) >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key);
  std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, static_cast<std::uint32_t>(threshold), scale};
}

/// What column `column` of the row is multiplied by: 0 or the scale.
__device__ inline float dropout_factor(const compute::DropoutRow& row, std::uint32_t column) {
  std::uint32_t x = column + row.key0;
  x ^= x >> 16;
  x *= compute::kDropoutMultiplier0;
  x += row.key1;
  x ^= x >> 15;
  x *= compute::kDropoutMultiplier1;
  x ^= x >> 16;
  return (x >> 8) < row.threshold ? 0.0f : row.scale;
}

}  // namespace tenax::cuda
