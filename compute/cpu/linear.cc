#include "compute/cpu/linear.h"

#include <algorithm>

namespace tenax::compute::cpu {
namespace {

/// A part of the result: rows [row, row + rows) and columns [column, column + columns).
struct Part {
  std::int64_t row = 0, rows = 0;
  std::int64_t column = 0, columns = 0;
};

/// Calls f(gemm, part) for parts of the (m, n) result of a product over k. The longer side is cut,
/// into more parts than there are threads, so that a late thread gets fewer of them, and as many
/// for each; small products stay whole.
template <class F>
void for_parts(Kernels& kernels, const GemmShape& shape, F&& f) {
  constexpr std::int64_t kSmallProduct = std::int64_t{1} << 20;
  const std::int64_t threads = kernels.pool.num_threads();
  const bool by_rows = shape.m > shape.n;
  const std::int64_t length = by_rows ? shape.m : shape.n;
  std::int64_t parts = 1;
  if (threads > 1 && shape.m * shape.n * shape.k > kSmallProduct) {
    constexpr std::int64_t kLeast = 96;
    parts = std::clamp<std::int64_t>(length / kLeast, 1, 4 * threads);
    if (parts > threads) parts -= parts % threads;
  }
  // A multiple of every micro-kernel's rows, or columns.
  const std::int64_t grain = by_rows ? 12 : 32;
  const std::int64_t grains = (length + grain - 1) / grain;
  const auto cut = [&](std::int64_t i) { return std::min(i * grains / parts * grain, length); };
  kernels.pool.run(static_cast<std::uint32_t>(parts), [&](std::uint32_t i, int thread) {
    const std::int64_t begin = cut(i);
    const std::int64_t size = cut(i + 1) - begin;
    const Part p = by_rows ? Part{begin, size, 0, shape.n} : Part{0, shape.m, begin, size};
    f(kernels.gemms[static_cast<std::size_t>(thread)], p);
  });
}

}  // namespace

void linear_forward(Kernels& kernels, const LinearShape& shape, const float* x, const float* weight,
                    const float* bias, float* y, Write write) {
  const std::int64_t in = shape.in;
  const std::int64_t out = shape.out;
  for_parts(kernels, {shape.rows, out, in}, [&](Gemm& gemm, const Part& p) {
    gemm.nt({p.rows, p.columns, in}, {x + p.row * in, in}, {weight + p.column * in, in},
            {y + p.row * out + p.column, out}, write);
    if (bias == nullptr) return;
    for (std::int64_t r = p.row; r < p.row + p.rows; ++r)
      kernels.ops.add(p.columns, bias + p.column, y + r * out + p.column);
  });
}

void linear_backward_input(Kernels& kernels, const LinearShape& shape, const float* dy,
                           const float* weight, float* dx, Write write) {
  const std::int64_t in = shape.in;
  const std::int64_t out = shape.out;
  for_parts(kernels, {shape.rows, in, out}, [&](Gemm& gemm, const Part& p) {
    gemm.nn({p.rows, p.columns, out}, {dy + p.row * out, out}, {weight + p.column, in},
            {dx + p.row * in + p.column, in}, write);
  });
}

void linear_backward_weight(Kernels& kernels, const LinearShape& shape, const float* dy,
                            const float* x, float* dweight, float* dbias, Write write) {
  const std::int64_t in = shape.in;
  const std::int64_t out = shape.out;
  for_parts(kernels, {out, in, shape.rows}, [&](Gemm& gemm, const Part& p) {
    gemm.tn({p.rows, p.columns, shape.rows}, {dy + p.row, out}, {x + p.column, in},
            {dweight + p.row * in + p.column, in}, write);
    if (dbias == nullptr || p.column != 0) return;
    for (std::int64_t r = 0; r < shape.rows; ++r)
      kernels.ops.add(p.rows, dy + r * out + p.row, dbias + p.row);
  });
}

void drop_tokens(Kernels& kernels, const DropoutSite& site, const std::int64_t* samples,
                 std::int64_t length, std::int64_t tokens, std::int64_t width, float* x) {
  constexpr std::int64_t kGrain = 64;
  kernels.for_ranges(tokens, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      kernels.ops.dropout(
          width, dropout_row(site, samples[i / length], static_cast<std::uint64_t>(i % length)),
          x + i * width);
  });
}

}  // namespace tenax::compute::cpu
