// Where the activations, the workspace and the tables of a stage lie in its memory, and how large
// they are. Views into memory that the stage owns. Options are local_options(): a rank's own sizes.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/cpu/head.h"
#include "compute/cpu/layer_memory.h"
#include "compute/model_options.h"
#include "compute/stage.h"
#include "compute/tensor_part.h"

namespace tenax::compute::cpu {

inline std::size_t num_tokens(const BatchShape& shape) {
  return static_cast<std::size_t>(shape.microbatch_size) *
         static_cast<std::size_t>(shape.sequence_length);
}

/// Floats of a (B, T, C) tensor.
inline std::size_t stream_size(const ModelOptions& o, const BatchShape& shape) {
  return num_tokens(shape) * static_cast<std::size_t>(o.width);
}

/// The most rows of the residual stream that a rank has.
inline std::size_t num_rows(const BatchShape& shape, const TensorPart& part) {
  return static_cast<std::size_t>(
      max_token_rows(static_cast<std::int64_t>(num_tokens(shape)), part));
}

/// What stays between forward and backward of one microbatch.
struct StageSlot {
  std::vector<std::int32_t> tokens;   // (B, T)
  std::vector<std::int32_t> targets;  // (B, T)
  bool has_positions = false;
  std::vector<std::int32_t> positions;   // (B, T), where has_positions
  float* embedded = nullptr;             // (R, C) before the embedding norm
  float* embedded_mean = nullptr;        // (R)
  float* embedded_rstd = nullptr;        // (R)
  std::vector<float*> inputs;            // (R, C) of each layer, and at the head of the final norm
  std::vector<LayerActivations> layers;  ///< empty with full recomputation
  std::vector<std::int64_t> samples;     // (B) absolute positions, with dropout
  LossSum loss;
  std::vector<double> sample_losses;  // (B)

  void place(Arena& arena, const ModelOptions& options, const StageSpec& spec,
             const BatchShape& shape, Recompute recompute);
  /// What forward was given.
  StageBatch batch() const {
    if (!has_positions) return {tokens, targets, {}, samples};
    return {tokens, targets, positions, samples};
  }
};

/// Memory that every microbatch passes through.
struct StageWorkspace {
  BlockWorkspace block;
  LayerActivations layer;   ///< of the layer that runs without a slot
  float* stream[2] = {};    // (R, C) residual stream of evaluation, alternating
  float* normed = nullptr;  // (B, T, C) after the final norm
  float* mean = nullptr;    // (R) of the final norm
  float* rstd = nullptr;    // (R)
  float* grad = nullptr;    // (R, C) gradient of the residual stream
  HeadWorkspace head;

  static StageWorkspace place(Arena& arena, const ModelOptions& options, const StageSpec& spec,
                              const BatchShape& shape, const StageSettings& settings);
};

/// Cosine and sine tables of RoPE and slopes of ALiBi.
struct PositionTables {
  float* cosine = nullptr;  // (max_sequence_length, D / 2)
  float* sine = nullptr;    // (max_sequence_length, D / 2)
  float* slopes = nullptr;  // (H)

  static PositionTables place(Arena& arena, const ModelOptions& options);
  /// For heads [first_head, ...) of a model of `num_heads`.
  void fill(const ModelOptions& options, std::int64_t first_head, std::int64_t num_heads) const;
};

/// Floats that a placing function takes.
template <class Place>
std::size_t measure(Place&& place) {
  Arena counting;
  place(counting);
  return counting.used();
}

/// Bytes of a stage of the CPU; `options` are resolved() and of the whole model.
StageMemory plan_memory(const ModelOptions& options, const StageSpec& spec, const BatchShape& shape,
                        const StageSettings& settings);

}  // namespace tenax::compute::cpu
