// Dropout by rows; see simd16.h for the rules of this build.
#pragma once

#include "compute/cpu/simd16.h"
#include "compute/dropout_row.h"

namespace tenax::compute::cpu {
namespace {

/// What columns first_column to first_column + 15 are multiplied by: dropout_factor().
TENAX_INLINE Float16 dropout_factors(const DropoutRow& row, std::uint32_t first_column) {
  constexpr UInt16 kCount = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  UInt16 x = kCount + (first_column + row.key0);
  x ^= x >> 16;
  x *= kDropoutMultiplier0;
  x += row.key1;
  x ^= x >> 15;
  x *= kDropoutMultiplier1;
  x ^= x >> 16;
  // 24 bits are exact as floats, which every build compares fast.
  const Float16 bits = __builtin_convertvector(reinterpret_cast<Int16>(x >> 8), Float16);
  return if_less(bits, splat(static_cast<float>(row.threshold)), Float16{}, splat(row.scale));
}

inline void dropout(std::int64_t count, const DropoutRow& row, float* x) {
  for_lanes(count, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
    store(x + i, load(x + i, lanes) * dropout_factors(row, static_cast<std::uint32_t>(i)), lanes);
  });
}

}  // namespace
}  // namespace tenax::compute::cpu
