#include "data/split.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/check.h"
#include "common/hash.h"
#include "data/permutation.h"

namespace tenax::data {

std::vector<std::int64_t> split_documents(std::span<const std::int64_t> num_tokens,
                                          const SplitOptions& options) {
  TENAX_CHECK(options.heldout_fraction >= 0 && options.heldout_fraction < 1);
  std::vector<std::int64_t> trained(num_tokens.begin(), num_tokens.end());
  if (trained.empty()) return trained;
  const std::int64_t total = std::accumulate(trained.begin(), trained.end(), std::int64_t{0});
  const double target = options.heldout_fraction * static_cast<double>(total);
  const auto least = static_cast<std::int64_t>(0.9 * target);
  const auto most = static_cast<std::int64_t>(1.1 * target);

  std::int64_t heldout = 0;
  const KeyedPermutation order({options.seed ^ hash64("held-out documents"), 0}, trained.size());
  for (std::size_t i = 0; i < trained.size() && static_cast<double>(heldout) < target; ++i) {
    std::int64_t& document = trained[order(i)];
    if (heldout + document > most) continue;
    heldout += document;
    document = 0;
  }
  if (heldout < least) {
    std::int64_t& longest = *std::max_element(trained.begin(), trained.end());
    longest -= std::min(longest, static_cast<std::int64_t>(std::llround(target)) - heldout);
  }
  return trained;
}

}  // namespace tenax::data
