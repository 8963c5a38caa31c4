#include "scheduler/spike_baseline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/counter_rng.h"

namespace tenax::scheduler {
namespace {

double median_by_sorting(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

SpikeBaselineState after(const std::vector<double>& losses, std::int32_t window) {
  SpikeBaselineState state;
  for (const double loss : losses) SpikeBaseline(window).accept(loss, state);
  return state;
}

TEST(SpikeBaseline, MedianIsThatOfASortedCopy) {
  const CounterRng rng(3, 0);
  for (std::uint64_t n = 1; n < 70; ++n) {
    std::vector<double> values;
    for (std::uint64_t i = 0; i < n; ++i)
      values.push_back(static_cast<double>(rng.normal(100 * n + i)));
    const double expected = median_by_sorting(values);
    EXPECT_EQ(median_in_place(values), expected) << n << " values";
  }
}

TEST(SpikeBaseline, FindsLevelAndSpreadOfNormalNoise) {
  const CounterRng rng(5, 0);
  std::vector<double> losses;
  for (std::uint64_t i = 0; i < 4096; ++i)
    losses.push_back(3 + 0.1 * static_cast<double>(rng.normal(i)));
  const SpikeBaselineState state = after(losses, 2048);
  // Standard errors: 1.25 x 0.1 / sqrt(512) for the median of the newest quarter, and about 1.17 x
  // 0.1 / sqrt(2048) for the spread; five of each.
  EXPECT_NEAR(state.level, 3, 0.028);
  EXPECT_NEAR(state.sigma, 0.1, 0.013);
}

TEST(SpikeBaseline, IsNotMovedByAFewWildSamples) {
  std::vector<double> losses;
  for (int i = 0; i < 64; ++i) losses.push_back(2 + 0.01 * (i % 5));
  const SpikeBaselineState calm = after(losses, 64);
  for (const int i : {10, 30, 50, 60}) losses[static_cast<std::size_t>(i)] = 1000;
  const SpikeBaselineState wild = after(losses, 64);
  EXPECT_NEAR(wild.level, calm.level, 0.011);
  EXPECT_NEAR(wild.sigma, calm.sigma, 0.011);
}

TEST(SpikeBaseline, FollowsAFallingLineWithoutTakingTheFallForNoise) {
  std::vector<double> losses;
  for (int i = 0; i < 64; ++i) losses.push_back(10 - 0.05 * i);
  const SpikeBaselineState state = after(losses, 64);
  EXPECT_NEAR(state.slope, -0.05, 1e-9);
  EXPECT_LT(state.sigma, 0.01);
  // Not below the newest sample, and behind it by no more than an eighth of the window.
  EXPECT_GE(state.level, losses.back());
  EXPECT_LE(state.level, losses.back() + 0.05 * 9);
}

TEST(SpikeBaseline, DoesNotExtrapolateARise) {
  std::vector<double> losses;
  for (int i = 0; i < 64; ++i) losses.push_back(2 + 0.01 * i);
  EXPECT_EQ(after(losses, 64).slope, 0);
}

TEST(SpikeBaseline, StaysAboveAConvexDescent) {
  std::vector<double> losses;
  for (int i = 0; i < 200; ++i) losses.push_back(2 + 8 * std::exp(-i / 20.0));
  for (std::size_t n = 16; n < losses.size(); ++n) {
    const SpikeBaselineState state =
        after({losses.begin(), losses.begin() + static_cast<std::ptrdiff_t>(n)}, 64);
    EXPECT_GE(state.level, losses[n - 1]) << n << " samples";
  }
}

TEST(SpikeBaseline, KeepsOnlyTheWindow) {
  std::vector<double> losses(100, 5);
  losses.insert(losses.end(), 16, 1);
  const SpikeBaselineState state = after(losses, 16);
  EXPECT_EQ(state.losses, std::vector<double>(16, 1));
  EXPECT_EQ(state.level, 1);
}

}  // namespace
}  // namespace tenax::scheduler
