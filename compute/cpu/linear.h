// y = x W^T + b and its gradients, on rows of tokens. Free functions over the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/cpu/vector_ops.h"
#include "compute/dropout.h"
#include "compute/gemm.h"
#include "compute/thread_pool.h"

namespace tenax::compute::cpu {

/// The kernels that a stage computes with, and the threads that share their work. No result depends
/// on how many there are: work is cut between elements, never inside a sum.
struct Kernels {
  Kernels(Isa isa, Precision precision, int num_threads) : ops(vector_ops(isa)), pool(num_threads) {
    for (int i = 0; i < num_threads; ++i) gemms.emplace_back(isa, precision);
  }

  /// Calls f(begin, end) for pieces of [0, count) of about `grain`.
  template <class F>
  void for_ranges(std::int64_t count, std::int64_t grain, F&& f) {
    const std::int64_t pieces = (count + grain - 1) / grain;
    pool.run(static_cast<std::uint32_t>(pieces), [&](std::uint32_t piece, int) {
      const std::int64_t begin = piece * grain;
      f(begin, begin + grain < count ? begin + grain : count);
    });
  }

  const VectorOps& ops;
  ThreadPool pool;
  std::vector<Gemm> gemms;  ///< one a thread
};

struct LinearShape {
  std::int64_t rows = 0;
  std::int64_t in = 0;
  std::int64_t out = 0;
};

/// y (rows, out) = or += x (rows, in) weight (out, in)^T + bias (out), which may be nullptr.
void linear_forward(Kernels& kernels, const LinearShape& shape, const float* x, const float* weight,
                    const float* bias, float* y, Write write);

/// dx (rows, in) = or += dy (rows, out) weight.
void linear_backward_input(Kernels& kernels, const LinearShape& shape, const float* dy,
                           const float* weight, float* dx, Write write);

/// dweight (out, in) += dy^T x; dbias (out) += column sums of dy, unless nullptr.
void linear_backward_weight(Kernels& kernels, const LinearShape& shape, const float* dy,
                            const float* x, float* dweight, float* dbias, Write write);

/// Drops numbers of x (tokens, width) in place: token i is row i % length of sample samples[i /
/// length].
void drop_tokens(Kernels& kernels, const DropoutSite& site, const std::int64_t* samples,
                 std::int64_t length, std::int64_t tokens, std::int64_t width, float* x);

}  // namespace tenax::compute::cpu
