#include "scheduler/straggler.h"

#include <gtest/gtest.h>

namespace tenax::scheduler {
namespace {

RankPace pace(double busy, double past = 0) { return {busy, past == 0 ? busy : past, 100}; }

TEST(Straggler, IsARankThatNeedsHalfAsMuchAgainAsItsPeers) {
  const auto s = straggler_scores({3, 1, 1}, {{0, pace(0.1)}, {1, pace(0.1)}, {2, pace(0.16)}}, {});
  EXPECT_FALSE(s.at(0).straggles);
  EXPECT_FALSE(s.at(1).straggles);
  EXPECT_TRUE(s.at(2).straggles);
  EXPECT_NEAR(s.at(2).score(), 1.6, 1e-9);
  EXPECT_EQ(s.at(2).text,
            "rank 2 needs 160.0 ms of a step for itself, its peers 100.0 ms, its own past 160.0 "
            "ms");
}

TEST(Straggler, AHeavierStageIsNotOne) {
  // Stage 1 also has the head; its two replicas need the same.
  const auto s = straggler_scores(
      {2, 1, 2}, {{0, pace(0.1)}, {1, pace(0.1)}, {2, pace(0.3)}, {3, pace(0.3)}}, {});
  for (const auto& [rank, score] : s) EXPECT_FALSE(score.straggles) << rank;
}

TEST(Straggler, IsAlsoOneThatHasBecomeSlowerThanItWas) {
  const auto s = straggler_scores({1, 1, 1}, {{0, pace(0.2, 0.1)}}, {});
  EXPECT_TRUE(s.at(0).straggles);
  EXPECT_NEAR(s.at(0).against_past, 2, 1e-9);
}

TEST(Straggler, StaysOneUntilItIsClearlyBetter) {
  const std::map<int, RankPace> paces = {{0, pace(0.1)}, {1, pace(0.1)}, {2, pace(0.14)}};
  EXPECT_FALSE(straggler_scores({3, 1, 1}, paces, {}).at(2).straggles);
  EXPECT_TRUE(straggler_scores({3, 1, 1}, paces, {{2, true}}).at(2).straggles);
}

TEST(Straggler, NobodyIsJudgedEarlyOrForALittle) {
  EXPECT_FALSE(
      straggler_scores({2, 1, 1}, {{0, pace(0.1)}, {1, {0.9, 0.9, 5}}}, {}).at(1).straggles);
  EXPECT_FALSE(
      straggler_scores({2, 1, 1}, {{0, pace(0.001)}, {1, pace(0.0025)}}, {}).at(1).straggles);
}

}  // namespace
}  // namespace tenax::scheduler
