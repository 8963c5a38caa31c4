#include "data/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/check.h"

namespace tenax::data {

std::vector<std::int64_t> count_tokens(const TokenFile& file) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(file.info().vocabulary_size));
  std::vector<std::int32_t> tokens(65536);
  for (std::int64_t at = 0; at < file.num_tokens();) {
    const auto n = std::min(static_cast<std::int64_t>(tokens.size()), file.num_tokens() - at);
    const auto block = std::span(tokens).first(static_cast<std::size_t>(n));
    file.read(at, block);
    for (const std::int32_t token : block) ++counts[static_cast<std::size_t>(token)];
    at += n;
  }
  return counts;
}

double unigram_cross_entropy(std::span<const std::int64_t> train_counts,
                             std::span<const std::int64_t> heldout_counts) {
  TENAX_CHECK(train_counts.size() == heldout_counts.size());
  const auto sum = [](std::span<const std::int64_t> counts) {
    return static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  };
  const double heldout = sum(heldout_counts);
  if (heldout == 0) return std::numeric_limits<double>::quiet_NaN();
  const double denominator = sum(train_counts) + static_cast<double>(train_counts.size());
  double nats = 0;
  for (std::size_t token = 0; token < train_counts.size(); ++token) {
    nats -= static_cast<double>(heldout_counts[token]) *
            std::log((static_cast<double>(train_counts[token]) + 1) / denominator);
  }
  return nats / heldout;
}

double uniform_cross_entropy(std::int64_t vocabulary_size) {
  return std::log(static_cast<double>(vocabulary_size));
}

}  // namespace tenax::data
