// Which numbers of one row of a tensor dropout keeps: what the kernels and compute/dropout.h share.
// No standard headers beyond integers, as the kernel builds include it. Value type.
#pragma once

#include <cstdint>

namespace tenax::compute {

/// Column c is kept if 24 bits of a hash of (key, c) reach the threshold; the hash is
///   x = c + key0; x ^= x >> 16; x *= 0x7feb352d; x += key1; x ^= x >> 15; x *= 0x846ca68b;
///   x ^= x >> 16; bits = x >> 8
/// (the finaliser "lowbias32" of Wellons, "Prospecting for hash functions", 2018, with a second key
/// in its middle). What is kept is multiplied by scale.
struct DropoutRow {
  std::uint32_t key0 = 0;
  std::uint32_t key1 = 0;
  std::uint32_t threshold = 0;  ///< rate * 2^24
  float scale = 1;              ///< 1 / (1 - rate)
};

inline constexpr std::uint32_t kDropoutMultiplier0 = 0x7feb352d;
inline constexpr std::uint32_t kDropoutMultiplier1 = 0x846ca68b;

}  // namespace tenax::compute
