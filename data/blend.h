// Weighted blends of corpora: which corpus a position takes its sample from, and which sample of
// it. A pure function of (seed, weights, position), so that nothing needs to be saved and no layout
// matters. Value types.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace tenax::data {

/// A corpus of a recipe's blend: "0.7 wiki/**/*.txt".
struct BlendPart {
  double weight = 1;
  std::string pattern;
  bool operator==(const BlendPart&) const = default;
};

/// kInvalidArgument unless the text is a positive number, spaces and a pattern.
Result<BlendPart> parse_blend_part(std::string_view text);

struct BlendSample {
  std::size_t corpus = 0;
  std::int64_t index = 0;  ///< counts the samples taken from that corpus before
  bool operator==(const BlendSample&) const = default;
};

class Blend {
 public:
  /// Every so many positions hold each corpus in its exact share, rounded to whole samples.
  static constexpr std::int64_t kCycle = 1000;

  /// `weights` are positive and need not add up to 1; one of them below a thousandth of their sum
  /// still gets one sample in a cycle. At most kCycle of them.
  Blend(std::uint64_t seed, std::span<const double> weights);

  BlendSample at(std::int64_t position) const;
  /// Samples of each corpus in a cycle; adds up to kCycle.
  const std::vector<std::int64_t>& shares() const { return shares_; }

 private:
  std::uint64_t seed_;
  std::vector<std::int64_t> shares_;
  std::vector<std::int64_t> first_;  ///< shares before each corpus
};

}  // namespace tenax::data
