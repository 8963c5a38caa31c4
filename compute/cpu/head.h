// Logits and loss of the last stage in chunks of tokens: a chunk's logits exist once, turn into
// their own gradient in place and are forgotten. Free functions over the kernels.
#pragma once

#include <cstdint>
#include <span>

#include "compute/aligned_buffer.h"
#include "compute/cpu/linear.h"
#include "compute/model_options.h"
#include "compute/stage.h"
#include "compute/tensor_group.h"

namespace tenax::compute::cpu {

struct HeadWorkspace {
  float* logits = nullptr;   // (chunk, V)
  double* loss = nullptr;    // (chunk)
  double* z_term = nullptr;  // (chunk)
  // With tensor parallelism: of each row the log of the sum of exponentials and the target's logit.
  double* row_sums = nullptr;      // (chunk, 2)
  double* all_row_sums = nullptr;  // (ranks, chunk, 2)

  static HeadWorkspace place(Arena& arena, const ModelOptions& options, const BatchShape& shape,
                             const TensorPart& part);
};

struct HeadCall {
  BatchShape shape;
  const float* x = nullptr;               // (B, T, C) after the final norm
  const float* weight = nullptr;          // (P, C); its first V rows are used
  TensorGroup* tensor_group = nullptr;    ///< where other ranks hold other rows of the vocabulary
  std::int64_t first_token = 0;           ///< of the first row
  const std::int32_t* targets = nullptr;  // (B, T)
  /// (B, T, C), overwritten, of which this rank's rows are the sums over all ranks; nullptr = loss
  /// only.
  float* dx = nullptr;
  float* dweight = nullptr;         // (P, C), added to; with dx
  std::span<double> sample_losses;  // (B) or empty, overwritten
};

/// Sums over samples in order, tokens in order within each.
LossSum head_loss(Kernels& kernels, const ModelOptions& options, const HeadCall& call,
                  const HeadWorkspace& workspace);

}  // namespace tenax::compute::cpu
