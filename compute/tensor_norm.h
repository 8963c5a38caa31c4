// Sums of squares of logical tensors, in double, cut into fixed chunks: a tensor split over ranks
// at chunk boundaries gives the same partial sums as a whole one, and adding them in order gives
// the same bits. Pure functions.
#pragma once

#include <cstddef>
#include <span>

#include "compute/cpu/isa.h"

namespace tenax::compute {

inline constexpr std::size_t kNormChunk = 4096;

constexpr std::size_t num_norm_chunks(std::size_t num_elements) {
  return (num_elements + kNormChunk - 1) / kNormChunk;
}

/// sums[i] = sum of squares of chunk i; equal bits with every `isa`. `sums` has
/// num_norm_chunks(tensor.size()) elements.
void chunk_sums_of_squares(std::span<const float> tensor, std::span<double> sums,
                           cpu::Isa isa = cpu::best_isa());

/// The chunks' sums added in ascending order.
double sum_of_squares(std::span<const float> tensor);

}  // namespace tenax::compute
