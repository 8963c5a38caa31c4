// One transformer layer: attention and feed-forward with their norms and residual sums, forward and
// backward. Free functions over the kernels; the caller owns all memory.
#pragma once

#include <cstdint>

#include "compute/cpu/layer_memory.h"
#include "compute/cpu/linear.h"
#include "compute/dropout.h"
#include "compute/model_options.h"
#include "compute/stage.h"
#include "compute/stage_layout.h"
#include "compute/step_trace.h"
#include "compute/tensor_group.h"

namespace tenax::compute::cpu {

/// What all layers of a stage share. `options` are local_options().
struct BlockContext {
  const ModelOptions& options;
  Kernels& kernels;
  BlockWorkspace workspace;
  const float* cosine = nullptr;        // (max_sequence_length, D / 2) with RoPE
  const float* sine = nullptr;          // (max_sequence_length, D / 2)
  const float* slopes = nullptr;        // (H) with ALiBi
  TensorGroup* tensor_group = nullptr;  ///< where other ranks hold the other heads
  StepTrace* trace = nullptr;           ///< records kernels
};

/// One layer at work: its place in the flat buffers and the batch it runs on. R: the rows of the
/// residual stream that this rank has (tensor_part.h, token_rows()), all B T with one rank.
struct BlockCall {
  BatchShape shape;
  const LayerOffsets& at;
  const float* values = nullptr;  ///< the stage's flat values
  const float* x = nullptr;       // (R, C) input
  LayerActivations& activations;
  const std::int32_t* positions = nullptr;  // (B, T) in the documents; nullptr: 0 to T - 1
  const LayerDropout* dropout = nullptr;    ///< nullptr: none, as in evaluation
  const std::int64_t* samples = nullptr;    // (B) absolute positions, with dropout
  std::int32_t layer = -1;                  ///< for the trace
};

/// out (R, C) = layer(x); overwrites out and the activations.
void block_forward(BlockContext& context, const BlockCall& call, float* out);

/// Makes what Recompute::kSelective does not keep again, from what it keeps, with equal bits.
void block_recompute(BlockContext& context, const BlockCall& call);

/// `grad` (R, C) holds the gradient of the output and is replaced by that of the input. Adds to
/// the flat `gradient`, which has the layout of the values. The activations are those of
/// block_forward.
void block_backward(BlockContext& context, const BlockCall& call, float* grad, float* gradient);

}  // namespace tenax::compute::cpu
