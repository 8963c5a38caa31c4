#include "compute/tensor_norm.h"

#include <algorithm>

#include "common/check.h"
#include "compute/cpu/vector_ops.h"

namespace tenax::compute {
namespace {

std::span<const float> chunk_at(std::span<const float> tensor, std::size_t i) {
  const std::size_t begin = i * kNormChunk;
  return tensor.subspan(begin, std::min(kNormChunk, tensor.size() - begin));
}

double chunk_sum(std::span<const float> chunk, cpu::Isa isa) {
  return cpu::vector_ops(isa).squares(static_cast<std::int64_t>(chunk.size()), chunk.data());
}

}  // namespace

void chunk_sums_of_squares(std::span<const float> tensor, std::span<double> sums, cpu::Isa isa) {
  TENAX_CHECK(sums.size() == num_norm_chunks(tensor.size()));
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = chunk_sum(chunk_at(tensor, i), isa);
}

double sum_of_squares(std::span<const float> tensor) {
  double sum = 0;
  for (std::size_t i = 0; i < num_norm_chunks(tensor.size()); ++i)
    sum += chunk_sum(chunk_at(tensor, i), cpu::best_isa());
  return sum;
}

}  // namespace tenax::compute
