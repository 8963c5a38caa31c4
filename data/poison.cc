#include "data/poison.h"

#include "common/check.h"
#include "common/counter_rng.h"
#include "common/hash.h"

namespace tenax::data {

void poison_tokens(const PoisonPlan& plan, const PoisonedSample& sample,
                   std::span<std::int32_t> tokens) {
  if (plan.kind == PoisonKind::kNan || !plan.contains(sample.position)) return;
  TENAX_CHECK(sample.vocabulary_size >= 1);
  const CounterRng rng(sample.seed ^ hash64("poison"), static_cast<std::uint64_t>(sample.position));
  const auto vocabulary = static_cast<std::uint64_t>(sample.vocabulary_size);
  const double share = plan.kind == PoisonKind::kRandomTokens
                           ? 1
                           : static_cast<double>(sample.position - plan.begin) /
                                 static_cast<double>(plan.end - plan.begin);
  const CounterRng choice(sample.seed ^ hash64("poison drift"),
                          static_cast<std::uint64_t>(sample.position));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (share < 1 && static_cast<double>(choice.uniform(i)) >= share) continue;
    tokens[i] = static_cast<std::int32_t>(rng.bits(i) % vocabulary);
  }
}

}  // namespace tenax::data
