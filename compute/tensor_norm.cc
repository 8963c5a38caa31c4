#include "compute/tensor_norm.h"

#include <algorithm>
#include <array>

#include "common/check.h"

namespace tenax::compute {
namespace {

double chunk_sum(std::span<const float> chunk) {
  constexpr std::size_t kLanes = 16;
  std::array<double, kLanes> lanes{};
  std::size_t i = 0;
  for (; i + kLanes <= chunk.size(); i += kLanes)
    for (std::size_t l = 0; l < kLanes; ++l) {
      const auto x = static_cast<double>(chunk[i + l]);
      lanes[l] += x * x;
    }
  for (std::size_t l = 0; i + l < chunk.size(); ++l) {
    const auto x = static_cast<double>(chunk[i + l]);
    lanes[l] += x * x;
  }
  for (std::size_t half = kLanes / 2; half > 0; half /= 2)
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

std::span<const float> chunk_at(std::span<const float> tensor, std::size_t i) {
  const std::size_t begin = i * kNormChunk;
  return tensor.subspan(begin, std::min(kNormChunk, tensor.size() - begin));
}

}  // namespace

void chunk_sums_of_squares(std::span<const float> tensor, std::span<double> sums) {
  TENAX_CHECK(sums.size() == num_norm_chunks(tensor.size()));
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = chunk_sum(chunk_at(tensor, i));
}

double sum_of_squares(std::span<const float> tensor) {
  double sum = 0;
  for (std::size_t i = 0; i < num_norm_chunks(tensor.size()); ++i)
    sum += chunk_sum(chunk_at(tensor, i));
  return sum;
}

}  // namespace tenax::compute
