#include "data/blend.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "common/check.h"
#include "common/hash.h"
#include "data/permutation.h"

namespace tenax::data {

Result<BlendPart> parse_blend_part(std::string_view text) {
  BlendPart part;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), part.weight);
  std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const std::size_t pattern = rest.find_first_not_of(' ');
  if (error != std::errc{} || !(part.weight > 0) || !std::isfinite(part.weight) || pattern == 0 ||
      pattern == std::string_view::npos) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("\"{}\" is no part of a blend: expected a positive weight and a "
                                  "file pattern, as \"0.7 wiki/**/*.txt\"",
                                  text));
  }
  part.pattern = rest.substr(pattern);
  return part;
}

Blend::Blend(std::uint64_t seed, std::span<const double> weights)
    : seed_(seed ^ hash64("corpus blend")) {
  TENAX_CHECK(!weights.empty() && weights.size() <= static_cast<std::size_t>(kCycle));
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (const double weight : weights) {
    TENAX_CHECK(weight > 0);
    const double share = weight / sum * static_cast<double>(kCycle);
    shares_.push_back(std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(share))));
  }
  // The rest goes where rounding took most, the first of equals first; an excess of the corpora
  // that were raised to one sample comes from the largest.
  for (std::int64_t left = kCycle - std::reduce(shares_.begin(), shares_.end()); left != 0;) {
    std::size_t best = 0;
    const auto missing = [&](std::size_t i) {
      return weights[i] / sum * static_cast<double>(kCycle) - static_cast<double>(shares_[i]);
    };
    for (std::size_t i = 1; i < shares_.size(); ++i) {
      if (left > 0 ? missing(i) > missing(best) : shares_[i] > shares_[best]) best = i;
    }
    shares_[best] += left > 0 ? 1 : -1;
    left += left > 0 ? -1 : 1;
  }
  first_.resize(shares_.size());
  std::exclusive_scan(shares_.begin(), shares_.end(), first_.begin(), std::int64_t{0});
}

BlendSample Blend::at(std::int64_t position) const {
  TENAX_CHECK(position >= 0);
  if (shares_.size() == 1) return {0, position};
  const std::int64_t cycle = position / kCycle;
  const KeyedPermutation order({seed_, static_cast<std::uint64_t>(cycle)},
                               static_cast<std::uint64_t>(kCycle));
  const auto slot = static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position % kCycle)));
  const auto after = std::upper_bound(first_.begin(), first_.end(), slot);
  const auto corpus = static_cast<std::size_t>(after - first_.begin() - 1);
  return {corpus, cycle * shares_[corpus] + slot - first_[corpus]};
}

}  // namespace tenax::data
