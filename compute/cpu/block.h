// One transformer layer: attention and feed-forward with their norms and residual sums, forward and
// backward. Free functions over the kernels; the caller owns all memory.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/cpu/attention.h"
#include "compute/cpu/linear.h"
#include "compute/model_options.h"
#include "compute/stage.h"
#include "compute/stage_layout.h"

namespace tenax::compute::cpu {

/// What backward needs of one layer besides its input. Pointers of absent parts are nullptr.
struct LayerActivations {
  float* attention_mean = nullptr;    // (B, T) of the first norm
  float* attention_rstd = nullptr;    // (B, T)
  float* attention_normed = nullptr;  // (B, T, C)
  float* q = nullptr;                 // (B, T, H, D)
  float* k = nullptr;                 // (B, T, K, D)
  float* v = nullptr;                 // (B, T, K, D)
  float* raw_q = nullptr;             // (B, T, H, D) before qk_norm
  float* raw_k = nullptr;             // (B, T, K, D)
  float* q_mean = nullptr;            // (B, T, H)
  float* q_rstd = nullptr;            // (B, T, H)
  float* k_mean = nullptr;            // (B, T, K)
  float* k_rstd = nullptr;            // (B, T, K)
  float* attended = nullptr;          // (B, T, H, D)
  float* log_sum = nullptr;           // (B, H, T)
  float* middle = nullptr;            // (B, T, C) residual stream after attention
  float* ffn_mean = nullptr;          // (B, T) of the second norm
  float* ffn_rstd = nullptr;          // (B, T)
  float* ffn_normed = nullptr;        // (B, T, C); with norm placement pre
  float* ffn_sum = nullptr;           // (B, T, C) before the second norm; with norm placement post
  float* up = nullptr;                // (B, T, F) before the activation
  float* gate = nullptr;              // (B, T, F)
  float* activated = nullptr;         // (B, T, F)

  static LayerActivations place(Arena& arena, const ModelOptions& options, const BatchShape& shape);
};

/// Gradients that live only while one layer's backward runs.
struct BlockWorkspace {
  float* dnormed = nullptr;                   // (B, T, C)
  float* dattended = nullptr;                 // (B, T, H, D)
  float* dq = nullptr;                        // (B, T, H, D)
  float* dk = nullptr;                        // (B, T, K, D)
  float* dv = nullptr;                        // (B, T, K, D)
  float* dhidden = nullptr;                   // (B, T, F)
  float* dgate = nullptr;                     // (B, T, F)
  std::vector<AttentionWorkspace> attention;  ///< one a thread

  static BlockWorkspace place(Arena& arena, const ModelOptions& options, const BatchShape& shape,
                              int num_threads);
};

/// What all layers of a stage share. `options` are resolved().
struct BlockContext {
  const ModelOptions& options;
  Kernels& kernels;
  BlockWorkspace workspace;
  const float* cosine = nullptr;  // (max_sequence_length, D / 2) with RoPE
  const float* sine = nullptr;    // (max_sequence_length, D / 2)
  const float* slopes = nullptr;  // (H) with ALiBi
};

/// One layer at work: its place in the flat buffers and the batch it runs on.
struct BlockCall {
  BatchShape shape;
  const LayerOffsets& at;
  const float* values = nullptr;  ///< the stage's flat values
  const float* x = nullptr;       // (B, T, C) input
  LayerActivations& activations;
};

/// out (B, T, C) = layer(x); overwrites out and the activations.
void block_forward(BlockContext& context, const BlockCall& call, float* out);

/// `grad` (B, T, C) holds the gradient of the output and is replaced by that of the input. Adds to
/// the flat `gradient`, which has the layout of the values. The activations are those of
/// block_forward.
void block_backward(BlockContext& context, const BlockCall& call, float* grad, float* gradient);

}  // namespace tenax::compute::cpu
