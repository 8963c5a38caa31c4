// The kernels that a stage computes with, and the threads that share their work. No result depends
// on how many there are: work is cut between elements, never inside a sum.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/cpu/vector_ops.h"
#include "compute/gemm.h"
#include "compute/thread_pool.h"

namespace tenax::compute::cpu {

/// To be called by one thread at a time.
class Kernels {
 public:
  Kernels(Isa isa, Precision precision, int num_threads);

  /// Calls f(begin, end) for pieces of [0, count) of about `grain`, on all threads.
  template <class F>
  void for_ranges(std::int64_t count, std::int64_t grain, F&& f) {
    const std::int64_t pieces = (count + grain - 1) / grain;
    pool.run(static_cast<std::uint32_t>(pieces), [&](std::uint32_t piece, int) {
      const std::int64_t begin = piece * grain;
      f(begin, begin + grain < count ? begin + grain : count);
    });
  }

  // On all threads, as in VectorOps:
  void copy(std::int64_t count, const float* from, float* to);
  void add(std::int64_t count, const float* x, float* y);
  void norm_forward(const NormCall& call);
  void norm_backward(const NormCall& call);

  const VectorOps& ops;
  ThreadPool pool;
  std::vector<Gemm> gemms;  ///< one a thread
};

}  // namespace tenax::compute::cpu
