#include "data/sampler.h"

#include "common/check.h"
#include "common/hash.h"
#include "data/permutation.h"

namespace tenax::data {

std::int64_t count_windows(std::int64_t num_tokens, std::int64_t sequence_length) {
  TENAX_CHECK(sequence_length >= 1);
  return num_tokens < 1 ? 0 : (num_tokens - 1) / sequence_length;
}

std::int64_t sample_window(std::uint64_t seed, std::int64_t position, std::int64_t num_windows) {
  TENAX_CHECK(position >= 0 && num_windows >= 1);
  // The name keeps the order of samples independent of other uses of the run's seed.
  static const std::uint64_t kOrder = hash64("sample order");
  const KeyedPermutation order({seed ^ kOrder, static_cast<std::uint64_t>(position / num_windows)},
                               static_cast<std::uint64_t>(num_windows));
  return static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position % num_windows)));
}

}  // namespace tenax::data
