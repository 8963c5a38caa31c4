// y = x W^T + b and its gradients, on rows of tokens. Free functions over the kernels.
#pragma once

#include <cstdint>
#include <span>

#include "compute/cpu/kernels.h"
#include "compute/dropout.h"
#include "compute/tensor_part.h"

namespace tenax::compute::cpu {

// Of several linears at once, which share x (rows, in) or the gradient of it: (out, in) weights.
// Their parts are one piece of work for the threads.

struct LinearForward {
  std::int64_t out = 0;
  const float* weight = nullptr;
  const float* bias = nullptr;  // (out) or nullptr
  float* y = nullptr;           // (rows, out)
};
/// y = or += x weight^T + bias, of each.
void linear_forward(Kernels& kernels, std::int64_t rows, std::int64_t in, const float* x,
                    std::span<const LinearForward> linears, Write write);

struct LinearBackwardInput {
  std::int64_t out = 0;
  const float* weight = nullptr;
  const float* dy = nullptr;  // (rows, out)
};
/// dx (rows, in) = or += dy weight of the first, += that of the others, in order.
void linear_backward_input(Kernels& kernels, std::int64_t rows, std::int64_t in,
                           std::span<const LinearBackwardInput> linears, float* dx, Write write);

struct LinearBackwardWeight {
  std::int64_t out = 0;
  const float* dy = nullptr;  // (rows, out)
  float* dweight = nullptr;
  float* dbias = nullptr;  // (out), added to, or nullptr
};
/// dweight = or += dy^T x; dbias += column sums of dy; of each.
void linear_backward_weight(Kernels& kernels, std::int64_t rows, std::int64_t in, const float* x,
                            std::span<const LinearBackwardWeight> linears, Write write);

/// Drops numbers of x (rows.size(), width) in place, those of tokens `rows` of a microbatch: token
/// i is row i % length of sample samples[i / length].
void drop_tokens(Kernels& kernels, const DropoutSite& site, const std::int64_t* samples,
                 std::int64_t length, const TokenRows& rows, std::int64_t width, float* x);

}  // namespace tenax::compute::cpu
