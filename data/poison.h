// Fault injection for demonstrations and tests: which samples are bad. Keyed by absolute position,
// so the same samples are bad after a restart on any layout, and a rollback that skips them escapes
// them. Pure functions.
#pragma once

#include <cstdint>
#include <span>

namespace tenax::data {

enum class PoisonKind : std::uint8_t {
  kRandomTokens,  ///< the sample's tokens are replaced by uniformly random ones
  kNan,           ///< the sample's loss is to become NaN; data/ only marks it, the engine obeys
  kDrift,         ///< a share of the tokens is random, from none at the begin to all at the end
};

/// Samples at absolute positions [begin, end) are bad; begin == end: none.
struct PoisonPlan {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  PoisonKind kind = PoisonKind::kRandomTokens;

  bool contains(std::int64_t position) const { return position >= begin && position < end; }
  bool operator==(const PoisonPlan&) const = default;
};

struct PoisonedSample {
  std::uint64_t seed = 0;
  std::int64_t position = 0;
  std::int64_t vocabulary_size = 0;
};

/// Overwrites `tokens`, or with kDrift some of them, if the plan says so for the sample's position;
/// otherwise changes nothing.
void poison_tokens(const PoisonPlan& plan, const PoisonedSample& sample,
                   std::span<std::int32_t> tokens);

}  // namespace tenax::data
