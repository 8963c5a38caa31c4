// The AVX-512 micro-kernel: a 12 x 32 tile of C in 24 registers. Built with -mavx512f and friends.
#include <immintrin.h>

#include "compute/cpu/gemm_blocks.h"

namespace tenax::compute::cpu {
namespace {

struct Avx512Kernel {
  static constexpr int kRows = 12;
  static constexpr int kRowsLeast = 4;
  static constexpr int kColumns = 32;

  template <int kTileRows, class A>
  [[gnu::noinline]] static void tile(std::int64_t depth, A a, const float* b, float* c,
                                     std::int64_t c_stride, bool add, Ahead& ahead) {
    __m512 sum[kTileRows][2];
#pragma GCC unroll 12
    for (int i = 0; i < kTileRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    steps(
        depth, TileLines<kTileRows, kColumns>{c, c_stride},
        ahead, [&]() __attribute__((always_inline)) {
          const __m512 b0 = _mm512_load_ps(b);
          const __m512 b1 = _mm512_load_ps(b + 16);
#pragma GCC unroll 12
          for (int i = 0; i < kTileRows; ++i) {
            const __m512 ai = _mm512_set1_ps(a[i]);
            sum[i][0] = _mm512_fmadd_ps(ai, b0, sum[i][0]);
            sum[i][1] = _mm512_fmadd_ps(ai, b1, sum[i][1]);
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

}  // namespace

void gemm_avx512(const GemmCall& call) { multiply_by<Avx512Kernel>(call); }

double tiles_avx512(const TileLoop& loop) { return repeat_tile<Avx512Kernel>(loop); }

}  // namespace tenax::compute::cpu
