// What stands for weights in a controlled run: a hash chain over what was trained. Pure functions.
#pragma once

#include <cstdint>

#include "scheduler/layout.h"

namespace tenax::test {

using namespace scheduler;  // NOLINT: the harness speaks the controller's words throughout

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15ULL + b + 0x7F4A7C15ULL;
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9ULL;
  return x ^ (x >> 29);
}

inline std::uint64_t initial_weights(const Degrees& degrees, int rank) {
  return mix(17, static_cast<std::uint64_t>(coordinates_of(degrees, rank).pp));
}

inline std::uint64_t checkpoint_id(std::uint64_t generation, std::int64_t step) {
  return generation << 32 | static_cast<std::uint64_t>(step);
}

}  // namespace tenax::test
