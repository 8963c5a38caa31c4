#include "compute/tensor_norm.h"

#include <algorithm>
#include <array>

#include "common/check.h"

namespace tenax::compute {
namespace {

double chunk_sum(std::span<const float> chunk) {
  constexpr std::size_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  for (std::size_t i = 0; i < chunk.size(); i += kLanes) {
    const std::size_t count = std::min(kLanes, chunk.size() - i);
    for (std::size_t l = 0; l < count; ++l) {
      const auto x = static_cast<double>(chunk[i + l]);
      lanes[l] += x * x;
    }
  }
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
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
