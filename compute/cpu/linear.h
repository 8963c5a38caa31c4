// y = x W^T + b and its gradients, on rows of tokens. Free functions over the kernels.
#pragma once

#include <cstdint>

#include "compute/cpu/kernels.h"
#include "compute/dropout.h"

namespace tenax::compute::cpu {

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
