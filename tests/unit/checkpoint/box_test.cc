#include "checkpoint/box.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

/// Every element of a box as a point.
std::set<std::vector<std::int64_t>> points(const Box& box) {
  std::set<std::vector<std::int64_t>> out;
  std::vector<std::int64_t> at = box.offset;
  for (std::int64_t i = 0; i < volume(box); ++i) {
    out.insert(at);
    for (std::size_t d = at.size(); d-- > 0;) {
      if (++at[d] < box.offset[d] + box.extent[d]) break;
      at[d] = box.offset[d];
    }
  }
  return out;
}

std::int64_t index_in(const Box& box, const std::vector<std::int64_t>& point) {
  std::int64_t flat = 0;
  for (std::size_t d = 0; d < point.size(); ++d) {
    flat = flat * box.extent[d] + point[d] - box.offset[d];
  }
  return flat;
}

TEST(Box, IntersectionAndDifferenceAreThoseOfTheSetsOfPoints) {
  std::mt19937_64 rng(1);
  for (int round = 0; round < 500; ++round) {
    const std::vector<std::int64_t> shape = {5, 4, 6};
    const Box a = random_box(shape, rng);
    const Box b = random_box(shape, rng);
    std::set<std::vector<std::int64_t>> common;
    for (const auto& p : points(a)) {
      if (points(b).contains(p)) common.insert(p);
    }
    const auto part = intersect(a, b);
    ASSERT_EQ(part.has_value(), !common.empty());
    if (!part) continue;
    ASSERT_EQ(points(*part), common);
    std::set<std::vector<std::int64_t>> together = common;
    for (const Box& rest : subtract(a, *part)) {
      for (const auto& p : points(rest)) ASSERT_TRUE(together.insert(p).second) << "not disjoint";
    }
    ASSERT_EQ(together, points(a));
  }
}

TEST(Box, CopyRunsMoveEveryPointToItsPlaceOnceInAscendingOrder) {
  std::mt19937_64 rng(2);
  for (int round = 0; round < 500; ++round) {
    const std::vector<std::int64_t> shape = {4, 3, 5};
    const Box source = random_box(shape, rng);
    const Box target = random_box(shape, rng);
    const auto part = intersect(source, target);
    if (!part) continue;
    std::set<std::pair<std::int64_t, std::int64_t>> expected;
    for (const auto& p : points(*part)) {
      expected.insert({index_in(source, p), index_in(target, p)});
    }
    std::set<std::pair<std::int64_t, std::int64_t>> moved;
    std::int64_t last = -1;
    for (const checkpoint::Run& run : copy_runs(source, target, *part)) {
      ASSERT_GT(run.source, last);
      for (std::int64_t i = 0; i < run.count; ++i) moved.insert({run.source + i, run.target + i});
      last = run.source + run.count - 1;
    }
    ASSERT_EQ(moved, expected);
  }
}

TEST(Box, WholeTensorIsOneRun) {
  const std::vector<std::int64_t> shape = {7, 8, 9};
  EXPECT_EQ(copy_runs(whole(shape), whole(shape), whole(shape)).size(), 1u);
  EXPECT_EQ(copy_runs(Box{}, Box{}, Box{}).size(), 1u) << "a scalar";
}

TEST(Box, LiesWithinRefusesOverflowAndWrongRank) {
  const std::vector<std::int64_t> shape = {4, 4};
  EXPECT_TRUE(lies_within({{1, 0}, {3, 4}}, shape));
  EXPECT_FALSE(lies_within({{1, 0}, {4, 4}}, shape));
  EXPECT_FALSE(lies_within({{-1, 0}, {1, 4}}, shape));
  EXPECT_FALSE(lies_within({{0}, {4}}, shape));
  EXPECT_FALSE(lies_within({{INT64_MAX, 0}, {1, 4}}, shape));
  EXPECT_FALSE(lies_within({{0, 0}, {-1, 4}}, shape));
}

}  // namespace
}  // namespace tenax::checkpoint
