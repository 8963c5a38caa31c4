// bfloat16 as stored: the upper half of a float32. Conversion rounds to nearest, ties to even.
#pragma once

#include "compute/cuda/device_code.h"

namespace tenax::cuda {

struct Bfloat16 {
  std::uint16_t bits;
};

__host__ __device__ inline float to_float(float x) { return x; }

__host__ __device__ inline float to_float(Bfloat16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

__host__ __device__ inline Bfloat16 to_bfloat16(float x) {
  Bfloat16 result;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#else
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
    result.bits = 0x7FFF;
  else
    result.bits = static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
#endif
  return result;
}

/// x as stored in a T.
template <class T>
__host__ __device__ T stored(float x);
template <>
__host__ __device__ inline float stored<float>(float x) {
  return x;
}
template <>
__host__ __device__ inline Bfloat16 stored<Bfloat16>(float x) {
  return to_bfloat16(x);
}

}  // namespace tenax::cuda
