// What a training step costs, for TFLOP/s and MFU (model FLOPs utilization: Chowdhery et al.,
// "PaLM", arXiv:2204.02311, appendix B). Pure functions, but for the measurement of the peak.
#pragma once

#include <algorithm>

#include "compute/cpu/isa.h"
#include "compute/model_options.h"
#include "compute/precision.h"

namespace tenax::compute {

/// Floating-point operations that training a token takes, forward and backward: 6 N + 12 L T H D. N
/// counts the weights of matrices that multiply activations (projections, feed-forward, output; no
/// lookups, norms or biases). Masked-out scores and recomputation are not taken off or added.
double flops_per_token(const ModelOptions& options, int sequence_length);

/// Operations a second that one thread's micro-kernel reaches on data in registers and first-level
/// cache: the best of a few bursts of about 2 ms. What MFU is a share of, times threads.
double measure_peak_flops(cpu::Isa isa, Precision precision);

/// The same of `num_threads` together that all work for about 50 ms: the mean, at the clock that
/// the processor then keeps. What a step on as many threads can be compared with.
double measure_sustained_flops(cpu::Isa isa, Precision precision, int num_threads);

/// What MFU is a share of, in operations a second. Workers of one machine share its processor or
/// its GPUs.
struct PeakFlops {
  double worker = 0;  ///< of one worker at best; 0: unknown
  double most = 0;    ///< of all workers together; 0: no limit

  double of(int num_workers) const {
    const double all = num_workers * worker;
    return most > 0 ? std::min(all, most) : all;
  }
};

}  // namespace tenax::compute
