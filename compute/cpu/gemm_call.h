// One matrix product as the kernels see it. No standard headers beyond integers: the kernel builds
// include this with their own instruction set, and an inline function shared with other files could
// carry it there.
#pragma once

#include <cstdint>

namespace tenax::compute::cpu {

/// Sizes of the packed blocks, equal in every build: the sum over k is cut at multiples of kBlockK,
/// nowhere else.
inline constexpr std::int64_t kBlockM = 72;
inline constexpr std::int64_t kBlockN = 512;
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
  bool bf16 = false;        ///< round A and B to bfloat16 first
  float* pack_a = nullptr;  ///< kPackAFloats, 64-byte aligned
  float* pack_b = nullptr;  ///< kPackBFloats, 64-byte aligned
};

/// The micro-kernel alone on one packed tile, again and again: what the processor can do at best.
struct TileLoop {
  std::int64_t repeats = 256;
  bool paired = false;
  const float* a = nullptr;  ///< a packed panel of kBlockK
  const float* b = nullptr;
  float* c = nullptr;  ///< a tile
};
/// Each returns the floating-point operations that it did.
double tiles_portable(const TileLoop& loop);
double tiles_avx2(const TileLoop& loop);
double tiles_avx512(const TileLoop& loop);
double tiles_avx512bf16(const TileLoop& loop);

void gemm_portable(const GemmCall& call);
void gemm_avx2(const GemmCall& call);
void gemm_avx512(const GemmCall& call);
/// The same sums as the others with `bf16`, by the instruction for pairs; only where
/// has_bf16_products().
void gemm_avx512bf16(const GemmCall& call);
/// Whether vdpbf16ps adds the second product of a pair first and rounds each sum to the nearest, as
/// Intel's manual says. Needs AVX512-BF16.
bool bf16_pairs_are_added_in_order();

}  // namespace tenax::compute::cpu
