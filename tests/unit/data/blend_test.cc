#include "data/blend.h"

#include <gtest/gtest.h>

#include <set>

namespace tenax::data {
namespace {

TEST(Blend, EveryCycleHoldsEachCorpusInItsShareAndEachOfItsSamplesOnceInTurn) {
  const std::vector<double> weights = {0.7, 0.2, 0.1};
  const Blend blend(3, weights);
  EXPECT_EQ(blend.shares(), (std::vector<std::int64_t>{700, 200, 100}));
  std::vector<std::set<std::int64_t>> seen(3);
  for (std::int64_t cycle = 0; cycle < 3; ++cycle) {
    for (std::int64_t p = cycle * Blend::kCycle; p < (cycle + 1) * Blend::kCycle; ++p) {
      const BlendSample s = blend.at(p);
      EXPECT_TRUE(seen[s.corpus].insert(s.index).second) << p;
    }
    for (std::size_t c = 0; c < 3; ++c) {
      EXPECT_EQ(seen[c].size(), static_cast<std::size_t>((cycle + 1) * blend.shares()[c]));
      EXPECT_EQ(*seen[c].begin(), 0);
      EXPECT_EQ(*seen[c].rbegin(), (cycle + 1) * blend.shares()[c] - 1);
    }
  }
}

TEST(Blend, MixesWithinACycleAndDiffersBetweenSeedsAndCycles) {
  const std::vector<double> weights = {1, 1};
  const Blend a(1, weights);
  const Blend b(2, weights);
  int changes = 0;
  int other_seed = 0;
  int other_cycle = 0;
  for (std::int64_t p = 1; p < Blend::kCycle; ++p) {
    changes += a.at(p).corpus != a.at(p - 1).corpus ? 1 : 0;
    other_seed += a.at(p).corpus != b.at(p).corpus ? 1 : 0;
    other_cycle += a.at(p).corpus != a.at(p + Blend::kCycle).corpus ? 1 : 0;
  }
  // 500 expected of each, with a standard deviation of 16.
  for (const int n : {changes, other_seed, other_cycle}) EXPECT_NEAR(n, 500, 80);
}

TEST(Blend, OneCorpusIsThePositionsThemselves) {
  const std::vector<double> weights = {0.3};
  const Blend blend(3, weights);
  for (const std::int64_t p : {0, 7, 123456}) EXPECT_EQ(blend.at(p), (BlendSample{0, p}));
}

TEST(Blend, SmallWeightsAreNotLostAndSharesAddUp) {
  const std::vector<double> weights = {1e-9, 1, 1, 1};
  const Blend blend(3, weights);
  std::int64_t sum = 0;
  for (const std::int64_t share : blend.shares()) sum += share;
  EXPECT_EQ(sum, Blend::kCycle);
  EXPECT_EQ(blend.shares()[0], 1);
}

TEST(BlendPart, IsAWeightAndAPattern) {
  const auto part = parse_blend_part("0.7 wiki/a b/**/*.txt");
  ASSERT_TRUE(part) << part.error().message;
  EXPECT_EQ(*part, (BlendPart{0.7, "wiki/a b/**/*.txt"}));
  for (const char* wrong : {"", "wiki/*", "0.7", "0.7 ", "-1 wiki/*", "0 wiki/*", "0.7wiki/*",
                            "nan wiki/*", "inf wiki/*"})
    EXPECT_FALSE(parse_blend_part(wrong)) << wrong;
}

}  // namespace
}  // namespace tenax::data
