#include "data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "data/permutation.h"

namespace tenax::data {
namespace {

std::vector<std::int64_t> epoch_order(std::uint64_t seed, std::int64_t epoch, std::int64_t n) {
  std::vector<std::int64_t> order;
  for (std::int64_t i = 0; i < n; ++i) order.push_back(sample_window(seed, epoch * n + i, n));
  return order;
}

TEST(KeyedPermutation, VisitsEveryElementOnceForEverySize) {
  for (std::uint64_t size = 1; size <= 300; ++size) {
    const KeyedPermutation permutation({7, size}, size);
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t image = permutation(i);
      ASSERT_LT(image, size);
      seen.insert(image);
    }
    ASSERT_EQ(seen.size(), size);
  }
}

TEST(KeyedPermutation, OfThreeElementsReachesAllSixOrdersAboutEquallyOften) {
  std::map<std::vector<std::uint64_t>, int> count;
  constexpr int kDraws = 6000;
  for (std::uint64_t stream = 0; stream < kDraws; ++stream) {
    const KeyedPermutation p({11, stream}, 3);
    ++count[{p(0), p(1), p(2)}];
  }
  ASSERT_EQ(count.size(), 6u);
  double chi_squared = 0;
  for (const auto& [order, n] : count) {
    const double d = n - kDraws / 6.0;
    chi_squared += d * d / (kDraws / 6.0);
  }
  EXPECT_LT(chi_squared, 20.5);  // 99.9 % of the chi-squared distribution with 5 degrees of freedom
}

TEST(KeyedPermutation, WorksAtTheLargestSize) {
  const KeyedPermutation permutation({1, 2}, std::uint64_t{1} << 62);
  EXPECT_NE(permutation(0), permutation(1));
  EXPECT_LT(permutation((std::uint64_t{1} << 62) - 1), std::uint64_t{1} << 62);
}

TEST(Sampler, EveryWindowOccursOnceInEveryEpoch) {
  for (const std::int64_t n : {1, 2, 5, 64, 1000}) {
    for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
      const auto order = epoch_order(3, epoch, n);
      EXPECT_EQ(std::set<std::int64_t>(order.begin(), order.end()).size(),
                static_cast<std::size_t>(n));
      EXPECT_GE(*std::min_element(order.begin(), order.end()), 0);
      EXPECT_LT(*std::max_element(order.begin(), order.end()), n);
    }
  }
}

TEST(Sampler, EpochsAndSeedsHaveOrdersOfTheirOwn) {
  EXPECT_NE(epoch_order(3, 0, 100), epoch_order(3, 1, 100));
  EXPECT_NE(epoch_order(3, 0, 100), epoch_order(4, 0, 100));
  EXPECT_EQ(epoch_order(3, 5, 100), epoch_order(3, 5, 100));
}

TEST(Sampler, OrderIsShuffledRatherThanShifted) {
  const auto order = epoch_order(3, 0, 10000);
  // For a uniformly random permutation the number of fixed points and the number of successive
  // pairs (w, w + 1) are both about Poisson(1).
  int fixed = 0;
  int successive = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    fixed += order[i] == static_cast<std::int64_t>(i);
    successive += i > 0 && order[i] == order[i - 1] + 1;
  }
  EXPECT_LT(fixed, 8);
  EXPECT_LT(successive, 8);
}

TEST(Sampler, TheLastWindowLeavesRoomForItsLastTarget) {
  EXPECT_EQ(count_windows(0, 128), 0);
  EXPECT_EQ(count_windows(128, 128), 0);
  EXPECT_EQ(count_windows(129, 128), 1);
  EXPECT_EQ(count_windows(256, 128), 1);
  EXPECT_EQ(count_windows(257, 128), 2);
}

}  // namespace
}  // namespace tenax::data
