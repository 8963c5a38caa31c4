// The AVX2 + FMA micro-kernel: a 6 x 16 tile of C in 12 registers. Its sums equal the AVX-512
// kernel's bit for bit, as both add one fused product after another. Built with -mavx2 -mfma.
#include <immintrin.h>

#include "compute/cpu/gemm_blocks.h"

namespace tenax::compute::cpu {
namespace {

struct Avx2Kernel {
  static constexpr int kRows = 6;
  static constexpr int kRowsLeast = 2;
  static constexpr int kColumns = 16;

  template <int kTileRows, class A>
  [[gnu::noinline]] static void tile(std::int64_t depth, A a, const float* b, float* c,
                                     std::int64_t c_stride, bool add, Ahead& ahead) {
    __m256 sum[kTileRows][2];
#pragma GCC unroll 6
    for (int i = 0; i < kTileRows; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_ps();
    steps(
        depth, TileLines<kTileRows, kColumns>{c, c_stride},
        ahead, [&]() __attribute__((always_inline)) {
          const __m256 b0 = _mm256_load_ps(b);
          const __m256 b1 = _mm256_load_ps(b + 8);
#pragma GCC unroll 6
          for (int i = 0; i < kTileRows; ++i) {
            const __m256 ai = _mm256_set1_ps(a[i]);
            sum[i][0] = _mm256_fmadd_ps(ai, b0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(ai, b1, sum[i][1]);
          }
          a.next();
          b += kColumns;
        });
#pragma GCC unroll 6
    for (int i = 0; i < kTileRows; ++i) {
      float* row = c + i * c_stride;
      if (add) {
        sum[i][0] = _mm256_add_ps(_mm256_loadu_ps(row), sum[i][0]);
        sum[i][1] = _mm256_add_ps(_mm256_loadu_ps(row + 8), sum[i][1]);
      }
      _mm256_storeu_ps(row, sum[i][0]);
      _mm256_storeu_ps(row + 8, sum[i][1]);
    }
  }
};

}  // namespace

void gemm_avx2(const GemmCall& call) { multiply_by<Avx2Kernel>(call); }

double tiles_avx2(const TileLoop& loop) { return repeat_tile<Avx2Kernel>(loop); }

}  // namespace tenax::compute::cpu
