#include "data/poison.h"

#include "common/check.h"
#include "common/counter_rng.h"
#include "common/hash.h"

namespace tenax::data {

void poison_tokens(const PoisonPlan& plan, const PoisonedSample& sample,
                   std::span<std::int32_t> tokens) {
  if (plan.kind != PoisonKind::kRandomTokens || !plan.contains(sample.position)) return;
  TENAX_CHECK(sample.vocabulary_size >= 1);
  const CounterRng rng(sample.seed ^ hash64("poison"), static_cast<std::uint64_t>(sample.position));
  const auto vocabulary = static_cast<std::uint64_t>(sample.vocabulary_size);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<std::int32_t>(rng.bits(i) % vocabulary);
  }
}

}  // namespace tenax::data
