#include "compute/cpu/linear.h"

#include <algorithm>

namespace tenax::compute::cpu {
namespace {

/// A part of the result: rows [row, row + rows) and columns [column, column + columns).
struct Part {
  std::int64_t row = 0, rows = 0;
  std::int64_t column = 0, columns = 0;
};

/// Where piece i of [0, length) begins, cut into `count` pieces at multiples of `grain`.
std::int64_t cut_at(std::int64_t length, std::int64_t grain, std::int64_t i, std::int64_t count) {
  return std::min(i * ((length + grain - 1) / grain) / count * grain, length);
}

/// How the (m, n) result of a product over k is cut for the threads: along its longer side, into
/// more parts than there are threads, so that a late thread gets fewer of them, and as many for
/// each. Small products stay whole.
class Cut {
 public:
  Cut(const GemmShape& shape, std::int64_t threads) : shape_(shape) {
    constexpr std::int64_t kSmallProduct = std::int64_t{1} << 20;
    if (threads == 1 || shape.m * shape.n * shape.k <= kSmallProduct) return;
    constexpr std::int64_t kLeast = 96;
    parts_ = std::clamp<std::int64_t>(length() / kLeast, 1, 4 * threads);
    if (parts_ > threads) parts_ -= parts_ % threads;
  }

  std::int64_t num_parts() const { return parts_; }
  Part part(std::int64_t i) const {
    // Multiples of every micro-kernel's rows, or columns.
    const std::int64_t grain = by_rows() ? 12 : 32;
    const std::int64_t begin = cut_at(length(), grain, i, parts_);
    const std::int64_t size = cut_at(length(), grain, i + 1, parts_) - begin;
    return by_rows() ? Part{begin, size, 0, shape_.n} : Part{0, shape_.m, begin, size};
  }

 private:
  bool by_rows() const { return shape_.m > shape_.n; }
  std::int64_t length() const { return by_rows() ? shape_.m : shape_.n; }

  GemmShape shape_;
  std::int64_t parts_ = 1;
};

/// Calls f(gemm, linear, cut, i) for the parts of the products of all linears.
template <class Linear, class ShapeOf, class F>
void for_parts(Kernels& kernels, std::span<const Linear> linears, const ShapeOf& shape_of, F&& f) {
  const auto cut_of = [&](const Linear& linear) {
    return Cut(shape_of(linear), kernels.pool.num_threads());
  };
  std::int64_t parts = 0;
  for (const Linear& linear : linears) parts += cut_of(linear).num_parts();
  kernels.pool.run(static_cast<std::uint32_t>(parts), [&](std::uint32_t task, int thread) {
    std::int64_t i = task;
    auto linear = linears.begin();
    for (; i >= cut_of(*linear).num_parts(); ++linear) i -= cut_of(*linear).num_parts();
    f(kernels.gemms[static_cast<std::size_t>(thread)], *linear, cut_of(*linear), i);
  });
}

}  // namespace

void linear_forward(Kernels& kernels, std::int64_t rows, std::int64_t in, const float* x,
                    std::span<const LinearForward> linears, Write write) {
  for_parts(
      kernels, linears,
      [&](const LinearForward& l) {
        return GemmShape{rows, l.out, in};
      },
      [&](Gemm& gemm, const LinearForward& l, const Cut& cut, std::int64_t i) {
        const Part p = cut.part(i);
        gemm.nt({p.rows, p.columns, in}, {x + p.row * in, in}, {l.weight + p.column * in, in},
                {l.y + p.row * l.out + p.column, l.out}, write);
        if (l.bias == nullptr) return;
        for (std::int64_t r = p.row; r < p.row + p.rows; ++r)
          kernels.ops.add(p.columns, l.bias + p.column, l.y + r * l.out + p.column);
      });
}

void linear_backward_input(Kernels& kernels, std::int64_t rows, std::int64_t in,
                           std::span<const LinearBackwardInput> linears, float* dx, Write write) {
  std::int64_t out = 0;
  for (const LinearBackwardInput& l : linears) out += l.out;
  const Cut cut({rows, in, out}, kernels.pool.num_threads());
  kernels.pool.run(static_cast<std::uint32_t>(cut.num_parts()), [&](std::uint32_t i, int thread) {
    const Part p = cut.part(i);
    Write how = write;
    for (const LinearBackwardInput& l : linears) {
      kernels.gemms[static_cast<std::size_t>(thread)].nn(
          {p.rows, p.columns, l.out}, {l.dy + p.row * l.out, l.out}, {l.weight + p.column, in},
          {dx + p.row * in + p.column, in}, how);
      how = Write::kAdd;
    }
  });
}

void linear_backward_weight(Kernels& kernels, std::int64_t rows, std::int64_t in, const float* x,
                            std::span<const LinearBackwardWeight> linears, Write write) {
  for_parts(
      kernels, linears,
      [&](const LinearBackwardWeight& l) {
        return GemmShape{l.out, in, rows};
      },
      [&](Gemm& gemm, const LinearBackwardWeight& l, const Cut& cut, std::int64_t i) {
        const Part p = cut.part(i);
        gemm.tn({p.rows, p.columns, rows}, {l.dy + p.row, l.out}, {x + p.column, in},
                {l.dweight + p.row * in + p.column, in}, write);
        if (l.dbias == nullptr) return;
        constexpr std::int64_t kLine = 16;
        const std::int64_t begin = cut_at(l.out, kLine, i, cut.num_parts());
        const std::int64_t size = cut_at(l.out, kLine, i + 1, cut.num_parts()) - begin;
        for (std::int64_t r = 0; r < rows; ++r)
          kernels.ops.add(size, l.dy + r * l.out + begin, l.dbias + begin);
      });
}

void drop_tokens(Kernels& kernels, const DropoutSite& site, const std::int64_t* samples,
                 std::int64_t length, const TokenRows& rows, std::int64_t width, float* x) {
  constexpr std::int64_t kGrain = 64;
  kernels.for_ranges(rows.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t i = rows.begin + r;
      kernels.ops.dropout(
          width, dropout_row(site, samples[i / length], static_cast<std::uint64_t>(i % length)),
          x + r * width);
    }
  });
}

}  // namespace tenax::compute::cpu
