// One matrix product as the kernels see it. No standard headers beyond integers: the kernel builds
// include this with their own instruction set, and an inline function shared with other files could
// carry it there.
#pragma once

#include <cstdint>

namespace tenax::compute::cpu {

/// Sizes of the packed blocks, equal in every build: the sum over k is cut at multiples of kBlockK,
/// nowhere else.
inline constexpr std::int64_t kBlockM = 144;
inline constexpr std::int64_t kBlockN = 2048;
inline constexpr std::int64_t kBlockK = 256;
/// Floats of the packing buffers; the slack takes the overhang of the last panel.
inline constexpr std::int64_t kPackAFloats = kBlockM * kBlockK + 64;
inline constexpr std::int64_t kPackBFloats = kBlockN * kBlockK + 64;

/// C(i, j) = or += sum over k of A(i, k) * B(k, j). One of the two strides of A and of B is 1.
struct GemmCall {
  std::int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  std::int64_t a_stride_m = 0, a_stride_k = 0;
  const float* b = nullptr;
  std::int64_t b_stride_k = 0, b_stride_n = 0;
  float* c = nullptr;
  std::int64_t c_stride = 0;
  bool add = false;
  float* pack_a = nullptr;  ///< kPackAFloats, 64-byte aligned
  float* pack_b = nullptr;  ///< kPackBFloats, 64-byte aligned
};

void gemm_portable(const GemmCall& call);
void gemm_avx2(const GemmCall& call);
void gemm_avx512(const GemmCall& call);

}  // namespace tenax::compute::cpu
