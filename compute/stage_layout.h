// Where each tensor of a stage lies in its flat buffers of values and gradients. Pure functions and
// values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compute/model_options.h"
#include "compute/stage.h"

namespace tenax::compute {

/// Offsets in floats; -1 = the model has no such tensor.
struct NormOffsets {
  std::int64_t weight = -1;
  std::int64_t bias = -1;
};
struct LinearOffsets {
  std::int64_t weight = -1;
  std::int64_t bias = -1;
};

/// One layer's tensors; the same in values and gradients.
struct LayerOffsets {
  NormOffsets attention_norm, query_norm, key_norm, ffn_norm;
  LinearOffsets query, key, value, output, gate, up, down;
};

/// Elements [begin, end) of the gradient buffer, and which part of a backward adds to them last: 0
/// the head, then the layers from the last on, behind them the embedding.
struct GradientExtent {
  int part = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool operator==(const GradientExtent&) const = default;
};

struct StageLayout {
  std::vector<StageParameter> parameters;
  std::int64_t values_size = 0;
  std::int64_t gradient_size = 0;
  std::vector<LayerOffsets> layers;
  // First stage:
  std::int64_t token = -1;  ///< the lookup's table; its gradient lies at the same offset
  std::int64_t position = -1;
  NormOffsets embedding_norm;
  // Last stage:
  NormOffsets final_norm;
  std::int64_t output = -1;           ///< the matrix of the logits, tied or not
  std::int64_t output_gradient = -1;  ///< its gradient, in the gradient buffer
  /// The whole gradient buffer, in the order in which a backward ends with it.
  std::vector<GradientExtent> backward_order;
};

/// Values first, in canonical order, each tensor on a multiple of 16 floats. The gradient buffer
/// has the same layout, and behind it one more region where the tied token embedding has both parts
/// here. `options` are resolved() and of the whole model.
StageLayout lay_out_stage(const ModelOptions& options, const StageSpec& spec);

/// Writes every tensor's initial values (initial_values()), this rank's part of them, into `values`
/// of the layout's size.
void initial_stage_values(const StageLayout& layout, std::uint64_t seed, std::span<float> values);

/// Everything that is wrong with the options, the stage and the batch, one sentence each.
std::vector<std::string> stage_problems(const ModelOptions& options, const StageSpec& spec,
                                        const BatchShape& shape);

}  // namespace tenax::compute
