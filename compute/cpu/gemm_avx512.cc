// The AVX-512 micro-kernel: a 12 x 32 tile of C in 24 registers. Built with -mavx512f and friends.
#include <immintrin.h>

#include "compute/cpu/gemm_blocks.h"

namespace tenax::compute::cpu {
namespace {

struct Avx512Kernel {
  static constexpr int kRows = 12;
  static constexpr int kColumns = 32;

  template <class A>
  [[gnu::noinline]] static void tile(std::int64_t depth, A a, const float* b, float* c,
                                     std::int64_t c_stride, bool add, Ahead& ahead) {
    __m512 sum[kRows][2];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
      // C lies far away; it is on its way while the sums are made.
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      __builtin_prefetch(c + i * c_stride, 1);
      __builtin_prefetch(c + i * c_stride + 16, 1);
    }
    steps(
        depth, ahead, [&]() __attribute__((always_inline)) {
          const __m512 b0 = _mm512_load_ps(b);
          const __m512 b1 = _mm512_load_ps(b + 16);
#pragma GCC unroll 12
          for (int i = 0; i < kRows; ++i) {
            const __m512 ai = _mm512_set1_ps(a[i]);
            sum[i][0] = _mm512_fmadd_ps(ai, b0, sum[i][0]);
            sum[i][1] = _mm512_fmadd_ps(ai, b1, sum[i][1]);
          }
          a.next();
          b += kColumns;
        });
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
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
