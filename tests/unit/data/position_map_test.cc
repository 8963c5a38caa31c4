#include "data/position_map.h"

#include <gtest/gtest.h>

#include <random>

namespace tenax::data {
namespace {

// The definition, by counting: walk over all positions, drop the skipped ones, deal out batches.
std::vector<std::vector<std::int64_t>> dealt_by_counting(const std::vector<std::int64_t>& sizes,
                                                         const std::vector<SkipWindow>& skips) {
  std::vector<std::vector<std::int64_t>> steps;
  std::int64_t position = 0;
  for (const std::int64_t size : sizes) {
    auto& step = steps.emplace_back();
    while (static_cast<std::int64_t>(step.size()) < size) {
      bool skipped = false;
      for (const SkipWindow& w : skips) skipped |= position >= w.begin && position < w.end;
      if (!skipped) step.push_back(position);
      ++position;
    }
  }
  return steps;
}

TEST(PositionMap, WithoutSkipsStepsFollowOneAnother) {
  const PositionMap map(16, {});
  EXPECT_EQ(map.ranges(1), (std::vector<PositionRange>{{0, 16}}));
  EXPECT_EQ(map.ranges(100), (std::vector<PositionRange>{{1584, 1600}}));
  EXPECT_EQ(map.begin(100), 1584);
  EXPECT_EQ(map.end(100), 1600);
}

TEST(PositionMap, ASkipCostsPositionsNotSteps) {
  const PositionMap map(4, {{6, 10}});
  EXPECT_EQ(map.positions(2), (std::vector<std::int64_t>{4, 5, 10, 11}));
  EXPECT_EQ(map.ranges(2), (std::vector<PositionRange>{{4, 6}, {10, 12}}));
  EXPECT_EQ(map.positions(3), (std::vector<std::int64_t>{12, 13, 14, 15}));
}

TEST(PositionMap, AWindowAtTheVeryStartIsSkipped) {
  const PositionMap map(2, {{0, 5}});
  EXPECT_EQ(map.positions(1), (std::vector<std::int64_t>{5, 6}));
}

TEST(PositionMap, AWindowAtAStepsEndBelongsToNeitherStep) {
  const PositionMap map(4, {{4, 8}});
  EXPECT_EQ(map.positions(1), (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(map.end(1), 4);
  EXPECT_EQ(map.begin(2), 8);
}

TEST(PositionMap, OverlappingTouchingAndEmptyWindowsMerge) {
  const PositionMap map(4, {{20, 30}, {5, 8}, {8, 12}, {25, 27}, {15, 15}, {18, 21}, {-3, 1}});
  EXPECT_EQ(map.skips(), (std::vector<SkipWindow>{{0, 1}, {5, 12}, {18, 30}}));
}

// T3: over steps, every position outside the skip windows exactly once, in ascending order.
TEST(PositionMap, TakesEveryPositionThatIsNotSkippedExactlyOnce) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<std::int64_t>(random() % n); };
    std::vector<SkipWindow> skips;
    for (std::int64_t i = below(6); i > 0; --i) {
      const std::int64_t begin = below(120);
      skips.push_back({begin, begin + below(30)});
    }
    std::vector<BatchSizeChange> ramp{{1, 1 + below(9)}};
    for (std::int64_t i = below(4); i > 0; --i) {
      ramp.push_back({ramp.back().first_step + 1 + below(8), 1 + below(12)});
    }
    const PositionMap map(ramp, skips);
    std::vector<std::int64_t> sizes;
    for (std::int64_t step = 1; step <= 60; ++step) {
      std::int64_t size = 0;
      for (const auto& change : ramp) size = step >= change.first_step ? change.size : size;
      sizes.push_back(size);
    }
    const auto expected = dealt_by_counting(sizes, skips);
    for (std::int64_t step = 1; step <= 60; ++step) {
      const auto& want = expected[static_cast<std::size_t>(step - 1)];
      ASSERT_EQ(map.positions(step), want) << "step " << step;
      ASSERT_EQ(map.batch_size(step), static_cast<std::int64_t>(want.size()));
      ASSERT_EQ(map.begin(step), want.front());
      ASSERT_EQ(map.end(step), want.back() + 1);
    }
  }
}

TEST(PositionMap, AWindowAddedLaterChangesNothingBeforeItsBegin) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<std::int64_t>(random() % n); };
    std::vector<SkipWindow> skips{{below(50), 50 + below(20)}};
    const PositionMap before(7, skips);
    const SkipWindow added{60 + below(100), 180};
    skips.push_back(added);
    const PositionMap after(7, skips);
    for (std::int64_t step = 1; step <= 60; ++step) {
      const auto old_positions = before.positions(step);
      const auto new_positions = after.positions(step);
      for (std::size_t i = 0; i < old_positions.size(); ++i) {
        if (old_positions[i] < added.begin) {
          ASSERT_EQ(new_positions[i], old_positions[i]);
        } else {
          ASSERT_GE(new_positions[i], added.end);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tenax::data
