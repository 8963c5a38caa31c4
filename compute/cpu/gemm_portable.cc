// The micro-kernel for any processor: a 4 x 8 tile in the compiler's vectors, products rounded
// before they are added.
#include "compute/cpu/gemm_blocks.h"

namespace tenax::compute::cpu {
namespace {

struct PortableKernel {
  static constexpr int kRows = 4;
  static constexpr int kRowsLeast = 4;
  static constexpr int kColumns = 8;

  template <int kTileRows, class A>
  [[gnu::noinline]] static void tile(std::int64_t depth, A a, const float* b, float* c,
                                     std::int64_t c_stride, bool add, Ahead& ahead) {
    Vec4 sum[kTileRows][2] = {};
    steps(
        depth, TileLines<kTileRows, kColumns>{c, c_stride},
        ahead, [&]() __attribute__((always_inline)) {
          const Vec4 b0 = *reinterpret_cast<const Vec4*>(b);
          const Vec4 b1 = *reinterpret_cast<const Vec4*>(b + 4);
#pragma GCC unroll 4
          for (int i = 0; i < kTileRows; ++i) {
            sum[i][0] += a[i] * b0;
            sum[i][1] += a[i] * b1;
          }
          a.next();
          b += kColumns;
        });
#pragma GCC unroll 4
    for (int i = 0; i < kTileRows; ++i) {
      Vec4* row0 = reinterpret_cast<Vec4*>(c + i * c_stride);
      Vec4* row1 = reinterpret_cast<Vec4*>(c + i * c_stride + 4);
      *row0 = add ? *row0 + sum[i][0] : sum[i][0];
      *row1 = add ? *row1 + sum[i][1] : sum[i][1];
    }
  }
};

}  // namespace

void gemm_portable(const GemmCall& call) { multiply_by<PortableKernel>(call); }

double tiles_portable(const TileLoop& loop) { return repeat_tile<PortableKernel>(loop); }

}  // namespace tenax::compute::cpu
