// The tensors of one layer at work: what forward leaves for backward, and what lives only while a
// backward runs. Views into memory that the stage owns.
#pragma once

#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/cpu/attention.h"
#include "compute/model_options.h"
#include "compute/stage.h"
#include "compute/tensor_part.h"

namespace tenax::compute::cpu {

/// What backward needs of one layer besides its input. Pointers of absent parts are nullptr. R: the
/// rows of B T that this rank has of the residual stream (tensor_part.h, token_rows()).
struct LayerActivations {
  float* whole_input = nullptr;       // (B, T, C); with norm placement post where ranks share it
  float* attention_mean = nullptr;    // (R) of the first norm
  float* attention_rstd = nullptr;    // (R)
  float* attention_normed = nullptr;  // (B, T, C); kSelective: made again
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
  float* middle = nullptr;            // (R, C) residual stream after attention
  float* ffn_mean = nullptr;          // (R) of the second norm
  float* ffn_rstd = nullptr;          // (R)
  float* ffn_normed = nullptr;        // (B, T, C); with norm placement pre
  float* ffn_sum = nullptr;           // (R, C) before the second norm; with norm placement post
  float* up = nullptr;                // (B, T, F) before the activation
  float* gate = nullptr;              // (B, T, F)
  float* activated = nullptr;         // (B, T, F); kSelective: made again

  static LayerActivations place(Arena& arena, const ModelOptions& options, const BatchShape& shape,
                                const TensorPart& part, Recompute recompute = Recompute::kNone);
  /// With Recompute::kSelective: where what is made again lives, which layers share.
  void borrow(const LayerActivations& shared) {
    whole_input = shared.whole_input;
    attention_normed = shared.attention_normed;
    ffn_normed = shared.ffn_normed;
    activated = shared.activated;
  }
};

/// Gradients that live only while one layer's backward runs.
struct BlockWorkspace {
  float* dnormed = nullptr;    // (B, T, C)
  float* dattended = nullptr;  // (B, T, H, D)
  float* dq = nullptr;         // (B, T, H, D)
  float* dk = nullptr;         // (B, T, K, D)
  float* dv = nullptr;         // (B, T, K, D)
  float* dhidden = nullptr;    // (B, T, F)
  float* dgate = nullptr;      // (B, T, F)
  float* projected = nullptr;  // (B, T, C) a projection or its gradient, with dropout or where
                               // ranks share the layer; what they look up too
  std::vector<AttentionWorkspace> attention;  ///< one a thread

  static BlockWorkspace place(Arena& arena, const ModelOptions& options, const BatchShape& shape,
                              const TensorPart& part, const StageSettings& settings);
};

}  // namespace tenax::compute::cpu
