#include "data/poison.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace tenax::data {
namespace {

const PoisonPlan kPlan{100, 108, PoisonKind::kRandomTokens};

TEST(Poison, LeavesOtherPositionsAlone) {
  for (const std::int64_t position : {0, 99, 108}) {
    std::vector<std::int32_t> tokens(50, 7);
    poison_tokens(kPlan, {1, position, 257}, tokens);
    EXPECT_EQ(tokens, std::vector<std::int32_t>(50, 7));
  }
}

TEST(Poison, ReplacesTokensByOnesFromTheWholeVocabulary) {
  std::vector<std::int32_t> tokens(20000, 7);
  poison_tokens(kPlan, {1, 100, 257}, tokens);
  const std::set<std::int32_t> seen(tokens.begin(), tokens.end());
  EXPECT_EQ(seen.size(), 257u);
  EXPECT_EQ(*seen.begin(), 0);
  EXPECT_EQ(*seen.rbegin(), 256);
}

TEST(Poison, ADriftReplacesMoreAndMoreTokens) {
  const PoisonPlan drift{100, 200, PoisonKind::kDrift};
  double before = -1;
  for (const std::int64_t position : {100, 125, 150, 175, 199}) {
    std::vector<std::int32_t> tokens(20000, 300);  // no token of the vocabulary
    poison_tokens(drift, {1, position, 257}, tokens);
    double changed = 0;
    for (const std::int32_t t : tokens) changed += t != 300 ? 1 : 0;
    const double share = changed / 20000;
    EXPECT_NEAR(share, static_cast<double>(position - 100) / 100, 0.02);  // 4 deviations
    EXPECT_GT(share, before);
    before = share;
  }
}

TEST(Poison, IsAFunctionOfSeedAndPositionOnly) {
  const auto poisoned = [](std::uint64_t seed, std::int64_t position) {
    std::vector<std::int32_t> tokens(64, 0);
    poison_tokens(kPlan, {seed, position, 257}, tokens);
    return tokens;
  };
  EXPECT_EQ(poisoned(1, 100), poisoned(1, 100));
  EXPECT_NE(poisoned(1, 100), poisoned(1, 101));
  EXPECT_NE(poisoned(1, 100), poisoned(2, 100));
}

TEST(Poison, NanIsOnlyAMark) {
  std::vector<std::int32_t> tokens(50, 7);
  const PoisonPlan plan{100, 108, PoisonKind::kNan};
  poison_tokens(plan, {1, 100, 257}, tokens);
  EXPECT_EQ(tokens, std::vector<std::int32_t>(50, 7));
  EXPECT_TRUE(plan.contains(100));
  EXPECT_FALSE(plan.contains(108));
}

}  // namespace
}  // namespace tenax::data
