#include "scheduler/layout_templates.h"

#include <gtest/gtest.h>

namespace tenax::scheduler {
namespace {

TEST(LayoutTemplates, ReplicasGoBeforeStages) {
  const Degrees target{2, 1, 2};
  EXPECT_EQ(best_layout({}, target, 4), (Degrees{2, 1, 2}));
  EXPECT_EQ(best_layout({}, target, 3), (Degrees{1, 1, 2}));
  EXPECT_EQ(best_layout({}, target, 2), (Degrees{1, 1, 2}));
  EXPECT_EQ(best_layout({}, target, 1), (Degrees{1, 1, 1}));
  EXPECT_EQ(best_layout({}, target, 0), std::nullopt);
}

TEST(LayoutTemplates, MoreWorkersThanTheTargetNeedsAreSpares) {
  EXPECT_EQ(best_layout({}, {2, 1, 2}, 9), (Degrees{2, 1, 2}));
}

TEST(LayoutTemplates, AreAskedForNothingBeyondTheirLimits) {
  const Degrees target{4, 1, 2};
  EXPECT_EQ(best_layout({.max_data_parallel = 3}, target, 8), (Degrees{3, 1, 2}));
  EXPECT_EQ(best_layout({.min_stages = 2}, target, 1), std::nullopt);
  EXPECT_EQ(best_layout({.min_workers = 4}, target, 3), std::nullopt);
  EXPECT_EQ(best_layout({.min_workers = 4}, target, 4), (Degrees{2, 1, 2}));
}

TEST(LayoutTemplates, KeepTheTensorParallelDegree) {
  const Degrees target{2, 2, 2};
  EXPECT_EQ(best_layout({}, target, 7), (Degrees{1, 2, 2}));
  EXPECT_EQ(best_layout({}, target, 3), (Degrees{1, 2, 1}));
  EXPECT_EQ(best_layout({}, target, 1), std::nullopt);
}

TEST(LayoutTemplates, EveryOneFitsItsNumberOfWorkersAndNoneWithMoreFitsWorse) {
  for (int dp = 1; dp <= 5; ++dp) {
    for (int pp = 1; pp <= 4; ++pp) {
      int before = 0;
      for (int workers = 1; workers <= dp * pp; ++workers) {
        const auto layout = best_layout({}, {dp, 1, pp}, workers);
        ASSERT_TRUE(layout) << dp << "x" << pp << " with " << workers;
        EXPECT_LE(layout->world_size(), workers);
        EXPECT_GE(layout->world_size(), before);
        before = layout->world_size();
      }
      EXPECT_EQ(before, dp * pp);
    }
  }
}

TEST(LayoutTemplates, AreListedOncePerLayoutWithTheFewestWorkersTheyNeed) {
  const std::vector<LayoutTemplate> expected = {{4, {2, 1, 2}}, {2, {1, 1, 2}}, {1, {1, 1, 1}}};
  EXPECT_EQ(layout_templates({}, {2, 1, 2}), expected);
  EXPECT_EQ(templates_text(expected), "4 workers dp 2 x pp 2, 2 dp 1 x pp 2, 1 dp 1 x pp 1");
}

TEST(LayoutTemplates, ALongListIsShortened) {
  const std::string text = templates_text(layout_templates({}, {100, 1, 1}));
  EXPECT_EQ(text,
            "100 workers dp 100 x pp 1, 99 dp 99 x pp 1, 98 dp 98 x pp 1, 97 dp 97 x pp 1, "
            "96 dp 96 x pp 1, 95 dp 95 x pp 1, ..., 1 dp 1 x pp 1");
}

}  // namespace
}  // namespace tenax::scheduler
