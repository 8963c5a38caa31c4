#include "compute/cpu/kernels.h"

#include <algorithm>

namespace tenax::compute::cpu {
namespace {

/// Floats that are worth a task of a thread.
constexpr std::int64_t kGrain = 32768;

std::int64_t rows_of_a_task(const NormCall& call) { return (kGrain + call.n - 1) / call.n; }

}  // namespace

Kernels::Kernels(Isa isa, Precision precision, int num_threads)
    : ops(vector_ops(isa)), pool(num_threads) {
  for (int i = 0; i < num_threads; ++i) gemms.emplace_back(isa, precision);
}

void Kernels::copy(std::int64_t count, const float* from, float* to) {
  for_ranges(count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::copy_n(from + begin, end - begin, to + begin);
  });
}

void Kernels::add(std::int64_t count, const float* x, float* y) {
  for_ranges(count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    ops.add(end - begin, x + begin, y + begin);
  });
}

void Kernels::norm_forward(const NormCall& call) {
  for_ranges(call.rows, rows_of_a_task(call),
             [&](std::int64_t begin, std::int64_t end) { ops.norm_forward(call, begin, end); });
}

void Kernels::norm_backward(const NormCall& call) {
  // Columns for the weight, whose sums run over all rows; first, since dx may take dy's place.
  constexpr std::int64_t kLine = 16;
  const std::int64_t lines = (call.n + kLine - 1) / kLine;
  const std::int64_t threads = pool.num_threads();
  for_ranges(
      call.n, (lines + threads - 1) / threads * kLine,
      [&](std::int64_t begin, std::int64_t end) { ops.norm_backward_weight(call, begin, end); });
  for_ranges(call.rows, rows_of_a_task(call),
             [&](std::int64_t begin, std::int64_t end) { ops.norm_backward(call, begin, end); });
}

}  // namespace tenax::compute::cpu
