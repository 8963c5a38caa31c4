// The micro-kernel of AVX512-BF16: a 12 x 32 tile of C in 24 registers, two terms of the sum an
// instruction. Built with -mavx512bf16.
#include <immintrin.h>

#include "compute/cpu/gemm_blocks.h"

namespace tenax::compute::cpu {
namespace {

struct Avx512Bf16Kernel {
  static constexpr int kRows = 12;
  static constexpr int kRowsLeast = 4;
  static constexpr int kColumns = 32;

  template <int kTileRows, class A>
  [[gnu::noinline]] static void tile(std::int64_t depth, A a, const float* b, float* c,
                                     std::int64_t c_stride, bool add, Ahead& ahead) {
    __m512 sum[kTileRows][2];
#pragma GCC unroll 12
    for (int i = 0; i < kTileRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    steps((depth + 1) / 2, TileLines<kTileRows, kColumns>{c, c_stride},
          ahead, [&]() __attribute__((always_inline)) {
            const __m512bh b0 = (__m512bh)_mm512_load_ps(b);
            const __m512bh b1 = (__m512bh)_mm512_load_ps(b + 16);
#pragma GCC unroll 12
            for (int i = 0; i < kTileRows; ++i) {
              const __m512bh ai = (__m512bh)_mm512_set1_ps(a[i]);
              sum[i][0] = _mm512_dpbf16_ps(sum[i][0], ai, b0);
              sum[i][1] = _mm512_dpbf16_ps(sum[i][1], ai, b1);
            }
            a.next();
            b += kColumns;
          });
#pragma GCC unroll 12
    for (int i = 0; i < kTileRows; ++i) {
      float* row = c + i * c_stride;
      if (add) {
        sum[i][0] = _mm512_add_ps(_mm512_loadu_ps(row), sum[i][0]);
        sum[i][1] = _mm512_add_ps(_mm512_loadu_ps(row + 16), sum[i][1]);
      }
      _mm512_storeu_ps(row, sum[i][0]);
      _mm512_storeu_ps(row + 16, sum[i][1]);
    }
  }
};

/// One lane of vdpbf16ps: sum + low * low + high * high of words that hold two bfloat16 each.
float one_pair(float sum, std::uint32_t x, std::uint32_t y) {
  const auto pairs = [](std::uint32_t word) {
    return (__m512bh)_mm512_set1_epi32(static_cast<int>(word));
  };
  return _mm512_cvtss_f32(_mm512_dpbf16_ps(_mm512_set1_ps(sum), pairs(x), pairs(y)));
}

}  // namespace

void gemm_avx512bf16(const GemmCall& call) { multiply<Avx512Bf16Kernel, Bf16PairFactors>(call); }

bool bf16_pairs_are_added_in_order() {
  constexpr std::uint32_t kOne = 0x3f80, kMinusOne = 0xbf80, kTiny = 0x3380;  // tiny = 2^-24
  // 1 + 2^-24 rounds to 1 and the next 2^-24 is lost too; exact or paired sums would keep 2^-23.
  const float lost = one_pair(1.0f, kTiny << 16 | kTiny, kOne << 16 | kOne);
  // The high half comes first: (2^-24 - 1) + 1 keeps 2^-24, but 2^-24 + 1 rounds to 1, less 1 is 0.
  const float minus_first = one_pair(0x1p-24f, kMinusOne << 16 | kOne, kOne << 16 | kOne);
  const float plus_first = one_pair(0x1p-24f, kOne << 16 | kMinusOne, kOne << 16 | kOne);
  return lost == 1.0f && minus_first == 0x1p-24f && plus_first == 0.0f;
}

double tiles_avx512bf16(const TileLoop& loop) { return repeat_tile<Avx512Bf16Kernel>(loop); }

}  // namespace tenax::compute::cpu
