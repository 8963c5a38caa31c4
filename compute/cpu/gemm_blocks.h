// The loops around a micro-kernel: blocking for the caches and packing into panels, after Goto and
// van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008,
// doi:10.1145/1356052.1356053.
//
// Each element of C is summed over k in ascending order within blocks of kBlockK, and the blocks
// are added in ascending order; where tiles begin or end has no influence on a single bit. With
// bfloat16 factors the terms come in pairs, the second of each pair first: the order of the
// instruction vdpbf16ps, which every build follows.
//
// B is always packed. A is read where it lies if that is as it is multiplied (float32), but for
// rows that make no whole tile; the memory of the next blocks of A and B is fetched while tiles are
// made.
//
// Included only by the kernel builds (gemm_*.cc); everything here has internal linkage, since each
// build has its own instruction set.
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

#if defined(__AVX512F__)
typedef float Vec16 __attribute__((vector_size(64), aligned(4), may_alias));

// Within each quarter of x and y, their lower or upper halves by turns.
inline Vec16 unpacked_low(Vec16 x, Vec16 y) {
  return __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
inline Vec16 unpacked_high(Vec16 x, Vec16 y) {
  return __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
inline Vec16 unpacked_low_pairs(Vec16 x, Vec16 y) {
  return __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
}
inline Vec16 unpacked_high_pairs(Vec16 x, Vec16 y) {
  return __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

/// Sixteen rows of sixteen floats, transposed, four columns at a time: loads bring every fourth row
/// into one register, a quarter each, and the quarters are transposed alike.
inline void transpose16(const float* src, std::int64_t stride, float* dst,
                        std::int64_t dst_stride) {
#pragma GCC unroll 4
  for (int column = 0; column < 16; column += 4) {
    const auto rows = [&](int first) {
      const auto four = [&](int row) {
        return *reinterpret_cast<const Vec4*>(src + row * stride + column);
      };
      const auto eight = [&](int row) {
        return __builtin_shufflevector(four(row), four(row + 4), 0, 1, 2, 3, 4, 5, 6, 7);
      };
      return __builtin_shufflevector(eight(first), eight(first + 8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                                     10, 11, 12, 13, 14, 15);
    };
    const auto r0 = rows(0), r1 = rows(1), r2 = rows(2), r3 = rows(3);
    const auto low01 = unpacked_low(r0, r1), high01 = unpacked_high(r0, r1);
    const auto low23 = unpacked_low(r2, r3), high23 = unpacked_high(r2, r3);
    const auto out = [&](int at) -> Vec16& {
      return *reinterpret_cast<Vec16*>(dst + (column + at) * dst_stride);
    };
    out(0) = unpacked_low_pairs(low01, low23);
    out(1) = unpacked_high_pairs(low01, low23);
    out(2) = unpacked_low_pairs(high01, high23);
    out(3) = unpacked_high_pairs(high01, high23);
  }
}
#endif

/// dst[k * kWidth + i] = src[i * stride + k] for i < width, 0 up to kWidth.
template <int kWidth>
inline void pack_columns(const float* src, std::int64_t stride, std::int64_t width,
                         std::int64_t depth, float* dst) {
  std::int64_t i = 0;
#if defined(__AVX512F__)
  for (; kWidth % 16 == 0 && i + 16 <= width; i += 16) {
    const float* rows = src + i * stride;
    std::int64_t k = 0;
    for (; k + 16 <= depth; k += 16) transpose16(rows + k, stride, dst + k * kWidth + i, kWidth);
    for (; k < depth; ++k)
      for (std::int64_t r = 0; r < 16; ++r) dst[k * kWidth + i + r] = rows[r * stride + k];
  }
#endif
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

/// A column after the other of a tile's rows of A: in a packed panel of kRows, or where A lies with
/// its columns or its rows contiguous, `stride` apart.
template <int kRows>
struct PackedColumns {
  const float* at;
  float operator[](int i) const { return at[i]; }
  void next() { at += kRows; }
};
struct SpacedColumns {
  const float* at;
  std::int64_t stride;
  float operator[](int i) const { return at[i]; }
  void next() {
    constexpr std::int64_t kColumnsAhead = 8;
    at += stride;
    __builtin_prefetch(at + kColumnsAhead * stride);
  }
};
struct SpacedRows {
  const float* at;
  std::int64_t stride;
  float operator[](int i) const { return at[i * stride]; }
  void next() { ++at; }
};

/// Memory that will be read soon: rows of `length` bytes, `stride` bytes apart, from `row` to
/// `end`. A tile fetches a line every kFetchEvery steps, into the second cache.
inline constexpr std::int64_t kFetchEvery = 4;
struct Ahead {
  const char* row = nullptr;
  const char* end = nullptr;
  std::int64_t stride = 0;
  std::int64_t length = 1;
  std::int64_t at = 0;
  bool done() const { return row >= end; }
  void fetch_line() {
    constexpr std::int64_t kLine = 64;
    __builtin_prefetch(row + at, 0, 2);
    at += kLine;
    // Without a branch: a row may be a few lines long.
    const std::int64_t wraps = -static_cast<std::int64_t>(at >= length);
    row += stride & wraps;
    at &= ~wraps;
  }
};

/// A block of `width` x `depth` numbers.
inline Ahead block_ahead(const float* p, std::int64_t stride_width, std::int64_t stride_depth,
                         std::int64_t width, std::int64_t depth) {
  constexpr std::int64_t kBytes = sizeof(float);
  Ahead a;
  a.row = reinterpret_cast<const char*>(p);
  const bool along_width = stride_width == 1;
  a.stride = kBytes * (along_width ? stride_depth : stride_width);
  a.length = kBytes * (along_width ? width : depth);
  a.end = a.row + a.stride * (along_width ? depth : width);
  return a;
}

/// The lines of a tile of C, which will be written.
template <int kRows, int kColumns>
struct TileLines {
  static constexpr std::int64_t kLineFloats = 16;
  static constexpr int kLinesInRow = kColumns > kLineFloats ? kColumns / kLineFloats : 1;
  const float* row;
  std::int64_t stride;
  int at = 0;
  bool done() const { return at == kRows * kLinesInRow; }
  void fetch_line() {
    __builtin_prefetch(row + at % kLinesInRow * kLineFloats, 1);
    if (++at % kLinesInRow == 0) row += stride;
  }
};

/// step() `depth` times, fetching in between: first the tile's own lines, then what comes later. A
/// core waits for a dozen lines at a time, also those that the second cache will give at once: many
/// lines from afar in one go would keep the factors out.
template <class Lines, class Step>
inline void steps(std::int64_t depth, Lines own, Ahead& ahead, Step&& step) {
  Ahead mine = ahead;
  std::int64_t k = 0;
  for (; k + kFetchEvery <= depth; k += kFetchEvery) {
    if (own.done()) {
      mine.fetch_line();
      mine.fetch_line();
    } else {
      own.fetch_line();
    }
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < kFetchEvery; ++i) step();
  }
  for (; k < depth; ++k) step();
  ahead = mine;
}

/// How a packed panel (depth, kWidth) is made ready for the kernel.
struct Fp32Factors {
  static constexpr bool kAsTheyAre = true;
  template <int kWidth>
  static inline void finish(float*, std::int64_t) {}
};

/// Rounded to bfloat16 in fp32; the rows of each pair of k change places.
struct Bf16InFp32Factors {
  static constexpr bool kAsTheyAre = false;
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
  static constexpr bool kAsTheyAre = false;
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

/// Kernel::tile<kTileRows>(depth, a, b_panel, c, c_stride, add, ahead) makes a whole kTileRows x
/// kColumns tile. Not inlined, so that its loop has all registers. Of fewer rows than kRows there
/// are tiles with multiples of Kernel::kRowsLeast.
template <class Kernel, int kTileRows = Kernel::kRows, class A>
inline void multiply_tile(std::int64_t rows, std::int64_t columns, std::int64_t depth, A a,
                          const float* b, float* c, std::int64_t c_stride, bool add, Ahead& ahead) {
  if (rows == kTileRows && columns == Kernel::kColumns) {
    Kernel::template tile<kTileRows>(depth, a, b, c, c_stride, add, ahead);
    return;
  }
  alignas(64) float edge[kTileRows * Kernel::kColumns];
  Kernel::template tile<kTileRows>(depth, a, b, edge, Kernel::kColumns, false, ahead);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) {
      const float value = edge[i * Kernel::kColumns + j];
      float& out = c[i * c_stride + j];
      out = add ? out + value : value;
    }
}

/// The last rows, too few for a whole tile, in the lowest that takes them.
template <class Kernel, int kTileRows = Kernel::kRows, class... Rest>
inline void multiply_last_rows(std::int64_t rows, Rest&&... rest) {
  if constexpr (kTileRows > Kernel::kRowsLeast) {
    constexpr int kLower = kTileRows - Kernel::kRowsLeast;
    if (rows <= kLower) return multiply_last_rows<Kernel, kLower>(rows, rest...);
  }
  multiply_tile<Kernel, kTileRows>(rows, rest...);
}

/// A block of the product: rows [m, m + rows), columns [n, n + columns), terms [k, k + depth).
struct Block {
  std::int64_t m, n, k, rows, columns, depth;
};

/// The rows of a block that make whole tiles.
template <class Kernel>
inline std::int64_t whole_rows(const Block& block) {
  return block.rows / Kernel::kRows * Kernel::kRows;
}

/// The tiles of a block whose columns of B are packed; rows_at(i) is A from row i of the block on,
/// for whole tiles, and `last` a packed panel of the rows behind those.
template <class Kernel, class RowsAt>
inline void multiply_block(const GemmCall& g, const Block& block, Ahead& next_a, Ahead& next_b,
                           RowsAt&& rows_at, const float* last) {
  const bool add = g.add || block.k > 0;
  const std::int64_t whole = whole_rows<Kernel>(block);
  Ahead nothing;  // its one line, again and again
  nothing.row = reinterpret_cast<const char*>(g.pack_b);
  for (std::int64_t j = 0; j < block.columns; j += Kernel::kColumns) {
    const std::int64_t columns = smaller(Kernel::kColumns, block.columns - j);
    const float* const b = g.pack_b + j * block.depth;
    float* const c = g.c + block.m * g.c_stride + block.n + j;
    const auto ahead = [&]() -> Ahead& {
      return !next_a.done() ? next_a : !next_b.done() ? next_b : nothing;
    };
    for (std::int64_t i = 0; i < whole; i += Kernel::kRows)
      multiply_tile<Kernel>(Kernel::kRows, columns, block.depth, rows_at(i), b, c + i * g.c_stride,
                            g.c_stride, add, ahead());
    if (whole < block.rows)
      multiply_last_rows<Kernel>(block.rows - whole, columns, block.depth,
                                 PackedColumns<Kernel::kRows>{last}, b, c + whole * g.c_stride,
                                 g.c_stride, add, ahead());
  }
}

/// Whether whole tiles read A where it lies. Columns that lie a multiple of 4096 bytes apart share
/// a set of the first cache and push each other out.
template <class Factors>
inline bool is_read_in_place(const GemmCall& g) {
  constexpr std::int64_t kSetPeriod = 4096 / sizeof(float);
  return Factors::kAsTheyAre && (g.a_stride_k == 1 || g.a_stride_k % kSetPeriod != 0);
}

template <class Kernel, class Factors>
inline void multiply(const GemmCall& g) {
  static_assert(kBlockM % Kernel::kRows == 0 && kBlockN % Kernel::kColumns == 0);
  const auto a_at = [&](std::int64_t m, std::int64_t k) {
    return g.a + m * g.a_stride_m + k * g.a_stride_k;
  };
  const auto b_at = [&](std::int64_t k, std::int64_t n) {
    return g.b + k * g.b_stride_k + n * g.b_stride_n;
  };
  Block block{};
  for (block.n = 0; block.n < g.n; block.n += kBlockN) {
    block.columns = smaller(kBlockN, g.n - block.n);
    for (block.k = 0; block.k < g.k; block.k += kBlockK) {
      block.depth = smaller(kBlockK, g.k - block.k);
      pack<Kernel::kColumns, Factors>(b_at(block.k, block.n), g.b_stride_n, g.b_stride_k,
                                      block.columns, block.depth, g.pack_b);
      // What comes behind this block of B.
      const bool last_k = block.k + kBlockK >= g.k;
      const std::int64_t next_k = last_k ? 0 : block.k + kBlockK;
      const std::int64_t next_n = last_k ? block.n + kBlockN : block.n;
      Ahead next_b;
      if (next_n < g.n)
        next_b = block_ahead(b_at(next_k, next_n), g.b_stride_n, g.b_stride_k,
                             smaller(kBlockN, g.n - next_n), smaller(kBlockK, g.k - next_k));
      for (block.m = 0; block.m < g.m; block.m += kBlockM) {
        block.rows = smaller(kBlockM, g.m - block.m);
        const bool last_m = block.m + kBlockM >= g.m;
        Ahead next_a;
        if (!last_m || next_n < g.n) {
          const std::int64_t m = last_m ? 0 : block.m + kBlockM;
          const std::int64_t k = last_m ? next_k : block.k;
          next_a = block_ahead(a_at(m, k), g.a_stride_m, g.a_stride_k, smaller(kBlockM, g.m - m),
                               smaller(kBlockK, g.k - k));
        }
        const float* const a = a_at(block.m, block.k);
        const bool in_place = is_read_in_place<Factors>(g);
        const std::int64_t whole = whole_rows<Kernel>(block);
        const std::int64_t packed = in_place ? whole : 0;  // from this row on
        pack<Kernel::kRows, Factors>(a + packed * g.a_stride_m, g.a_stride_m, g.a_stride_k,
                                     block.rows - packed, block.depth, g.pack_a);
        const float* const last = g.pack_a + (whole - packed) * block.depth;
        if (!in_place) {
          multiply_block<Kernel>(
              g, block, next_a, next_b,
              [&](std::int64_t i) {
                return PackedColumns<Kernel::kRows>{g.pack_a + i * block.depth};
              },
              last);
        } else if (g.a_stride_k == 1) {
          multiply_block<Kernel>(
              g, block, next_a, next_b,
              [&](std::int64_t i) {
                return SpacedRows{a + i * g.a_stride_m, g.a_stride_m};
              },
              last);
        } else {
          multiply_block<Kernel>(
              g, block, next_a, next_b,
              [&](std::int64_t i) {
                return SpacedColumns{a + i, g.a_stride_k};
              },
              last);
        }
      }
    }
  }
}

template <class Kernel>
inline double repeat_tile(const TileLoop& loop) {
  Ahead nothing;
  nothing.row = reinterpret_cast<const char*>(loop.b);
  for (std::int64_t i = 0; i < loop.repeats; ++i)
    Kernel::template tile<Kernel::kRows>(kBlockK, PackedColumns<Kernel::kRows>{loop.a}, loop.b,
                                         loop.c, Kernel::kColumns, true, nothing);
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
