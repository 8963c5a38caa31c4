// What stands for weights in a controlled run: a hash chain over what was trained. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/layout.h"

namespace tenax::test {

using namespace scheduler;  // NOLINT: the harness speaks the controller's words throughout

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15ULL + b + 0x7F4A7C15ULL;
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9ULL;
  return x ^ (x >> 29);
}

/// The layers of one rank's stage, each a number that says what was trained into it.
struct Shard {
  int first = 0;
  std::vector<std::uint64_t> layers;
  bool operator==(const Shard&) const = default;
};

inline Shard initial_shard(int num_layers, const Degrees& degrees, int rank) {
  const LayerRange range = split_layers(
      num_layers, degrees.pp)[static_cast<std::size_t>(coordinates_of(degrees, rank).pp)];
  Shard shard{range.first, {}};
  for (int layer = range.first; layer < range.end; ++layer)
    shard.layers.push_back(mix(17, static_cast<std::uint64_t>(layer)));
  return shard;
}

inline std::uint64_t digest(const Shard& shard) {
  std::uint64_t d = static_cast<std::uint64_t>(shard.first);
  for (const std::uint64_t layer : shard.layers) d = mix(d, layer);
  return d;
}

inline std::uint64_t checkpoint_id(std::uint64_t generation, std::int64_t step) {
  return generation << 32 | static_cast<std::uint64_t>(step);
}

}  // namespace tenax::test
