// The loops around a micro-kernel: blocking for the caches and packing into panels, after Goto and
// van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008,
// doi:10.1145/1356052.1356053.
//
// Each element of C is summed over k in ascending order within blocks of kBlockK, and the blocks
// are added in ascending order; where tiles begin or end has no influence on a single bit. With
// bfloat16 factors the terms come in pairs, the second of each pair first: the order of the
// instruction vdpbf16ps, which every build follows. Included
// only by the kernel builds (gemm_*.cc); everything here has internal linkage, since each build has
// its own instruction set.
#pragma once

#include "compute/cpu/gemm_call.h"

namespace tenax::compute::cpu {
namespace {

inline std::int64_t smaller(std::int64_t x, std::int64_t y) { return x < y ? x : y; }

/// dst[k * kWidth + i] = src[k * stride + i] for i < width, 0 up to kWidth.
template <int kWidth>
inline void pack_rows(const float* src, std::int64_t stride, std::int64_t width, std::int64_t depth,
                      float* dst) {
  if (width == kWidth) {
    for (std::int64_t k = 0; k < depth; ++k)
      for (int i = 0; i < kWidth; ++i) dst[k * kWidth + i] = src[k * stride + i];
    return;
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    for (std::int64_t i = 0; i < width; ++i) dst[k * kWidth + i] = src[k * stride + i];
    for (std::int64_t i = width; i < kWidth; ++i) dst[k * kWidth + i] = 0.0f;
  }
}

typedef float Vec4 __attribute__((vector_size(16), aligned(4), may_alias));

/// Four rows of four floats, transposed.
inline void transpose4(const float* src, std::int64_t stride, float* dst, std::int64_t dst_stride) {
  const Vec4 r0 = *reinterpret_cast<const Vec4*>(src);
  const Vec4 r1 = *reinterpret_cast<const Vec4*>(src + stride);
  const Vec4 r2 = *reinterpret_cast<const Vec4*>(src + 2 * stride);
  const Vec4 r3 = *reinterpret_cast<const Vec4*>(src + 3 * stride);
  const Vec4 low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
  const Vec4 high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
  const Vec4 low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
  const Vec4 high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
  *reinterpret_cast<Vec4*>(dst) = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  *reinterpret_cast<Vec4*>(dst + dst_stride) = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  *reinterpret_cast<Vec4*>(dst + 2 * dst_stride) =
      __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  *reinterpret_cast<Vec4*>(dst + 3 * dst_stride) =
      __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

/// dst[k * kWidth + i] = src[i * stride + k] for i < width, 0 up to kWidth.
template <int kWidth>
inline void pack_columns(const float* src, std::int64_t stride, std::int64_t width,
                         std::int64_t depth, float* dst) {
  std::int64_t i = 0;
  for (; i + 4 <= width && i + 4 <= kWidth; i += 4) {
    const float* rows = src + i * stride;
    std::int64_t k = 0;
    for (; k + 4 <= depth; k += 4) transpose4(rows + k, stride, dst + k * kWidth + i, kWidth);
    for (; k < depth; ++k)
      for (std::int64_t r = 0; r < 4; ++r) dst[k * kWidth + i + r] = rows[r * stride + k];
  }
  for (; i < width; ++i)
    for (std::int64_t k = 0; k < depth; ++k) dst[k * kWidth + i] = src[i * stride + k];
  for (; i < kWidth; ++i)
    for (std::int64_t k = 0; k < depth; ++k) dst[k * kWidth + i] = 0.0f;
}

typedef std::uint32_t Bits __attribute__((may_alias));

/// An fp32 number rounded to bfloat16, to the nearest with ties to even, in the upper half.
/// Denormal numbers become 0, as the processor's instructions have it; NaN stays NaN.
inline std::uint32_t rounded_to_bf16(std::uint32_t x) {
  const std::uint32_t magnitude = x & 0x7fffffffu;
  const std::uint32_t nearest = x + 0x7fffu + ((x >> 16) & 1u);
  const std::uint32_t rounded = magnitude > 0x7f800000u ? x | 0x00400000u : nearest;
  return (magnitude < 0x00800000u ? x & 0x80000000u : rounded) & 0xffff0000u;
}

/// How a packed panel (depth, kWidth) is made ready for the kernel.
struct Fp32Factors {
  template <int kWidth>
  static inline void finish(float*, std::int64_t) {}
};

/// Rounded to bfloat16 in fp32; the rows of each pair of k change places.
struct Bf16InFp32Factors {
  template <int kWidth>
  static inline void finish(float* panel, std::int64_t depth) {
    Bits* row = reinterpret_cast<Bits*>(panel);
    std::int64_t k = 0;
    for (; k + 2 <= depth; k += 2, row += 2 * kWidth)
      for (int i = 0; i < kWidth; ++i) {
        const std::uint32_t first = rounded_to_bf16(row[i]);
        row[i] = rounded_to_bf16(row[i + kWidth]);
        row[i + kWidth] = first;
      }
    if (k < depth)
      for (int i = 0; i < kWidth; ++i) row[i] = rounded_to_bf16(row[i]);
  }
};

/// The pairs of k as bfloat16 in one 32-bit word, (depth / 2, kWidth) of them.
struct Bf16PairFactors {
  template <int kWidth>
  static inline void finish(float* panel, std::int64_t depth) {
    Bits* pairs = reinterpret_cast<Bits*>(panel);
    const Bits* row = pairs;
    std::uint32_t words[kWidth];  // a pair's words overwrite rows that were read before
    for (std::int64_t k = 0; k + 2 <= depth; k += 2, row += 2 * kWidth, pairs += kWidth) {
      for (int i = 0; i < kWidth; ++i)
        words[i] = rounded_to_bf16(row[i]) >> 16 | rounded_to_bf16(row[i + kWidth]);
      for (int i = 0; i < kWidth; ++i) pairs[i] = words[i];
    }
    if (depth % 2 == 0) return;
    for (int i = 0; i < kWidth; ++i) pairs[i] = rounded_to_bf16(row[i]) >> 16;
  }
};

/// Packs a block of `width` x `depth` into panels of kWidth. Rows are read a few at a time from end
/// to end, which the processor fetches ahead; a panel at a time would jump from page to page.
template <int kWidth, class Factors>
inline void pack(const float* src, std::int64_t stride_width, std::int64_t stride_depth,
                 std::int64_t width, std::int64_t depth, float* dst) {
  constexpr std::int64_t kRowsAtOnce = 8;
  if (stride_width == 1) {
    for (std::int64_t k = 0; k < depth; k += kRowsAtOnce)
      for (std::int64_t i = 0; i < width; i += kWidth)
        pack_rows<kWidth>(src + k * stride_depth + i, stride_depth, smaller(kWidth, width - i),
                          smaller(kRowsAtOnce, depth - k), dst + i * depth + k * kWidth);
  } else {
    for (std::int64_t i = 0; i < width; i += kWidth)
      pack_columns<kWidth>(src + i * stride_width, stride_width, smaller(kWidth, width - i), depth,
                           dst + i * depth);
  }
  for (std::int64_t i = 0; i < width; i += kWidth)
    Factors::template finish<kWidth>(dst + i * depth, depth);
}

/// Kernel::tile(depth, a_panel, b_panel, c, c_stride, add) makes a full kRows x kColumns tile.
template <class Kernel>
inline void multiply_tile(std::int64_t rows, std::int64_t columns, std::int64_t depth,
                          const float* a, const float* b, float* c, std::int64_t c_stride,
                          bool add) {
  if (rows == Kernel::kRows && columns == Kernel::kColumns) {
    Kernel::tile(depth, a, b, c, c_stride, add);
    return;
  }
  alignas(64) float edge[Kernel::kRows * Kernel::kColumns];
  Kernel::tile(depth, a, b, edge, Kernel::kColumns, false);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) {
      const float value = edge[i * Kernel::kColumns + j];
      float& out = c[i * c_stride + j];
      out = add ? out + value : value;
    }
}

template <class Kernel, class Factors>
inline void multiply(const GemmCall& g) {
  static_assert(kBlockM % Kernel::kRows == 0 && kBlockN % Kernel::kColumns == 0);
  for (std::int64_t jc = 0; jc < g.n; jc += kBlockN) {
    const std::int64_t nc = smaller(kBlockN, g.n - jc);
    for (std::int64_t pc = 0; pc < g.k; pc += kBlockK) {
      const std::int64_t kc = smaller(kBlockK, g.k - pc);
      const bool add = g.add || pc > 0;
      pack<Kernel::kColumns, Factors>(g.b + pc * g.b_stride_k + jc * g.b_stride_n, g.b_stride_n,
                                      g.b_stride_k, nc, kc, g.pack_b);
      for (std::int64_t ic = 0; ic < g.m; ic += kBlockM) {
        const std::int64_t mc = smaller(kBlockM, g.m - ic);
        pack<Kernel::kRows, Factors>(g.a + ic * g.a_stride_m + pc * g.a_stride_k, g.a_stride_m,
                                     g.a_stride_k, mc, kc, g.pack_a);
        for (std::int64_t j = 0; j < nc; j += Kernel::kColumns)
          for (std::int64_t i = 0; i < mc; i += Kernel::kRows)
            multiply_tile<Kernel>(smaller(Kernel::kRows, mc - i), smaller(Kernel::kColumns, nc - j),
                                  kc, g.pack_a + i * kc, g.pack_b + j * kc,
                                  g.c + (ic + i) * g.c_stride + jc + j, g.c_stride, add);
      }
    }
  }
}

template <class Kernel>
inline double repeat_tile(const TileLoop& loop) {
  for (std::int64_t i = 0; i < loop.repeats; ++i)
    Kernel::tile(kBlockK, loop.a, loop.b, loop.c, Kernel::kColumns, true);
  return 2.0 * Kernel::kRows * Kernel::kColumns * static_cast<double>(kBlockK) *
         static_cast<double>(loop.repeats);
}

/// The product with a kernel of fp32 factors.
template <class Kernel>
inline void multiply_by(const GemmCall& g) {
  if (g.bf16)
    multiply<Kernel, Bf16InFp32Factors>(g);
  else
    multiply<Kernel, Fp32Factors>(g);
}

}  // namespace
}  // namespace tenax::compute::cpu
