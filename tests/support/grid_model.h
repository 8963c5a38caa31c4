// The model that layouts are compared on, and how far tensor parallelism may round its numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tests/support/engine_world.h"

namespace tenax::test {

/// Four layers; embedding and matrices have several chunks of the gradient norm, so that shards cut
/// through tensors.
inline WorldOptions world_options() {
  WorldOptions o;
  configs::RunConfig& c = o.config;
  c.model.width = 48;
  c.model.num_layers = 4;
  c.model.num_heads = 4;
  c.model.num_kv_heads = 2;
  c.train.sequence_length = 12;
  c.train.global_batch_size = 12;
  c.train.microbatch_size = 1;
  c.optimizer.clip_norm = 0.5;
  return o;
}

/// c * eps * sqrt(K): sixteen dependent sums a layer, forward and backward, embedding and head
/// included; K is the longest of them (docs/numerics.md).
inline double rounding_bound(const configs::RunConfig& c, std::int64_t vocabulary) {
  const auto longest = static_cast<double>(
      std::max({vocabulary, 4 * c.model.width, c.train.sequence_length * c.train.microbatch_size}));
  const double sums = 16.0 * static_cast<double>(c.model.num_layers + 1);
  return sums * 0x1p-24 * std::sqrt(longest);
}

}  // namespace tenax::test
