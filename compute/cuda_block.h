// One layer of the decoder on a GPU, forward and backward. The same steps as compute/cpu/block.cc;
// q, k and v lie in one packed buffer, as do up and gate, and one product makes each where their
// weights lie one behind the other. Engine's thread.
#pragma once

#include "compute/cuda_ops.h"

namespace tenax::compute {

struct CudaBlockCall {
  BatchShape shape;
  const LayerOffsets& at;
  std::byte* x = nullptr;  // (R, C): the layer's input
  const CudaLayer& kept;
  const std::int32_t* places = nullptr;   // (B, T) in the documents; null: 0 to T - 1
  const LayerDropout* dropout = nullptr;  ///< null: none, as in evaluation
  const std::int64_t* samples = nullptr;  // (B) absolute positions, with dropout
};

/// Writes the layer's output to `out` (R, C) and what backward needs to call.kept.
void cuda_block_forward(const CudaBlockContext& context, const CudaBlockCall& call, std::byte* out);
/// Makes what Recompute::kSelective does not keep again, from what it keeps, with equal bits.
void cuda_block_recompute(const CudaBlockContext& context, const CudaBlockCall& call);
/// `grad` (R, C): the gradient of the output becomes that of the input. Adds to `gradient`.
void cuda_block_backward(const CudaBlockContext& context, const CudaBlockCall& call,
                         std::byte* grad, float* gradient);

}  // namespace tenax::compute
