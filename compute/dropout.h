// Dropout (Srivastava et al., JMLR 15, 2014) with masks that are functions: whether an element is
// kept depends on the run's seed, the sample's absolute position, the place in the model and the
// element, never on rank, stage, slot or step. So recomputation, a replayed step and every layout
// have the same masks, and there is no state to save. Pure functions, value types.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "compute/dropout_row.h"

namespace tenax::compute {

/// Shares of elements that are set to 0 in training, each in [0, 1); the others grow by 1 / (1 -
/// rate).
struct DropoutRates {
  double embedding = 0;  ///< of the residual stream that enters the first layer
  double attention = 0;  ///< of the attention probabilities
  double residual = 0;   ///< of the outputs of attention and feed-forward, before they are added

  bool any() const { return embedding > 0 || attention > 0 || residual > 0; }
  bool operator==(const DropoutRates&) const = default;
};

/// One place in the model.
struct DropoutSite {
  std::uint64_t key = 0;  ///< of seed and name
  std::uint32_t threshold = 0;
  float scale = 1;

  bool active() const { return threshold > 0; }
};

/// Where one layer drops numbers.
struct LayerDropout {
  DropoutSite probabilities;
  DropoutSite attention_output;
  DropoutSite ffn_output;
};

/// `name`: "embedding", "layers.3.attention.probabilities", "layers.3.attention.output" or
/// "layers.3.ffn.output", counted over the whole model.
DropoutSite dropout_site(std::uint64_t seed, std::string_view name, double rate);

/// Of layers [first_layer, end_layer) of the model, and of the embedding.
struct StageDropout {
  DropoutSite embedding;
  std::vector<LayerDropout> layers;  ///< empty where nothing is dropped anywhere
  const LayerDropout* of(std::size_t layer) const {
    return layers.empty() ? nullptr : &layers[layer];
  }
};
StageDropout stage_dropout(const DropoutRates& rates, std::uint64_t seed, int first_layer,
                           int end_layer);

/// Row `row` of the sample at absolute position `sample`. Rows are tokens t with C columns, or of
/// attention probabilities query heads and queries, h * T + t, with T columns.
DropoutRow dropout_row(const DropoutSite& site, std::int64_t sample, std::uint64_t row);

/// What dropout multiplies column `column` by: 0 or the scale. The kernels compute the same.
float dropout_factor(const DropoutRow& row, std::uint32_t column);

}  // namespace tenax::compute
