#include "checkpoint/retention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tenax::checkpoint {
namespace {

CheckpointInfo info(std::uint64_t id, std::int64_t step, bool verified, std::uint64_t branch = 0,
                    bool current = true) {
  return {id, branch, step, Time(Duration(static_cast<std::int64_t>(id))), verified, current};
}

std::vector<std::uint64_t> ids(const std::vector<Retained>& list) {
  std::vector<std::uint64_t> out;
  for (const Retained& r : list) out.push_back(r.id);
  return out;
}

TEST(Retention, KeepsTheLastAndEveryNth) {
  std::vector<CheckpointInfo> all;
  for (std::uint64_t i = 1; i <= 10; ++i) {
    all.push_back(info(i, static_cast<std::int64_t>(10 * i), false));
  }
  const auto d = decide_retention(all, {.keep_last = 2, .keep_every = 40});
  EXPECT_EQ(ids(d.keep), (std::vector<std::uint64_t>{4, 8, 9, 10}));
  EXPECT_EQ(ids(d.remove), (std::vector<std::uint64_t>{1, 2, 3, 5, 6, 7}));
}

TEST(Retention, ARunThatWentBadDoesNotDeleteItsHealthyCheckpoints) {
  std::vector<CheckpointInfo> all = {info(1, 10, true), info(2, 20, true)};
  for (std::uint64_t i = 3; i <= 60; ++i) {
    all.push_back(info(i, static_cast<std::int64_t>(10 * i), false));
  }
  const auto d = decide_retention(all, {.keep_last = 2, .keep_every = 0});
  EXPECT_EQ(ids(d.keep), (std::vector<std::uint64_t>{1, 2, 59, 60}));
}

TEST(Retention, NewestVerifiedAndItsPredecessorStayWhateverThePolicySays) {
  const std::vector<CheckpointInfo> all = {info(1, 10, true), info(2, 20, true), info(3, 30, true),
                                           info(4, 40, false)};
  const auto d = decide_retention(all, {.keep_last = 0, .keep_every = 0, .keep_verified = 0});
  EXPECT_EQ(ids(d.keep), (std::vector<std::uint64_t>{2, 3, 4}));
}

TEST(Retention, LeftBranchesGoFirstEvenIfVerifiedAndNewer) {
  const std::vector<CheckpointInfo> all = {info(1, 10, false),          info(2, 20, true),
                                           info(3, 30, true),           info(4, 40, true, 0, false),
                                           info(5, 50, true, 0, false), info(6, 35, false, 1)};
  const auto d = decide_retention(all, {.keep_last = 1});
  EXPECT_EQ(ids(d.remove), (std::vector<std::uint64_t>{4, 5, 1}));
  EXPECT_EQ(ids(d.keep), (std::vector<std::uint64_t>{2, 3, 6}));
}

TEST(Retention, PinnedOnesStay) {
  const std::vector<CheckpointInfo> all = {info(1, 10, false, 0, false), info(2, 20, false),
                                           info(3, 30, false)};
  const auto d =
      decide_retention(all, {.keep_last = 1, .keep_every = 0, .keep_verified = 3, .pinned = {1}});
  EXPECT_EQ(ids(d.keep), (std::vector<std::uint64_t>{1, 3}));
}

TEST(Retention, VerifiedOnesStandAtGrowingDistancesThroughoutARun) {
  std::vector<CheckpointInfo> held;
  for (std::uint64_t i = 1; i <= 500; ++i) {
    held.push_back(info(i, static_cast<std::int64_t>(10 * i), true));
    const auto d = decide_retention(held, {.keep_last = 1, .keep_every = 0, .keep_verified = 3});
    std::vector<CheckpointInfo> kept;
    for (const CheckpointInfo& c : held) {
      const auto id_list = ids(d.keep);
      if (std::find(id_list.begin(), id_list.end(), c.id) != id_list.end()) kept.push_back(c);
    }
    held = kept;
    ASSERT_EQ(held.size(), std::min<std::size_t>(i, 3));
    if (i < 5) continue;
    ASSERT_EQ(held[2].step - held[1].step, 10);
    const std::int64_t oldest = held[2].step - held[0].step;
    ASSERT_GE(oldest, 20) << "step " << 10 * i;
    ASSERT_LE(oldest, 50) << "step " << 10 * i;
  }
}

TEST(Retention, EveryCheckpointIsDecidedOnceInAnyOrderOfTheInput) {
  std::mt19937_64 rng(4);
  std::vector<CheckpointInfo> all;
  for (std::uint64_t i = 1; i <= 30; ++i) {
    all.push_back(
        info(i, static_cast<std::int64_t>(rng() % 300), rng() % 2 == 0, 0, rng() % 4 != 0));
  }
  const RetentionPolicy policy{
      .keep_last = 3, .keep_every = 100, .keep_verified = 3, .pinned = {7}};
  const auto first = decide_retention(all, policy);
  EXPECT_EQ(first.keep.size() + first.remove.size(), all.size());
  for (int round = 0; round < 20; ++round) {
    std::shuffle(all.begin(), all.end(), rng);
    const auto again = decide_retention(all, policy);
    EXPECT_EQ(again.keep, first.keep);
    EXPECT_EQ(again.remove, first.remove);
  }
}

TEST(Ancestry, EndsWhereABranchWasLeft) {
  // 0 --100--> 1 --250--> 3; 2 left 1 at 200 and was left itself.
  const std::vector<BranchParent> parents = {{1, 0, 100}, {2, 1, 200}, {3, 1, 250}};
  EXPECT_TRUE(on_ancestry(3, 1000, 3, parents));
  EXPECT_TRUE(on_ancestry(1, 250, 3, parents));
  EXPECT_FALSE(on_ancestry(1, 251, 3, parents));
  EXPECT_TRUE(on_ancestry(0, 100, 3, parents));
  EXPECT_FALSE(on_ancestry(0, 101, 3, parents));
  EXPECT_FALSE(on_ancestry(2, 150, 3, parents));
  EXPECT_FALSE(on_ancestry(9, 1, 3, parents));
}

TEST(Ancestry, ALaterRollbackOfADescendantCutsTheAncestorsToo) {
  // 1 left 0 at 100; 2 left 1 at 50, before 1's own beginning: what 0 did from 51 to 100 is left
  // too.
  const std::vector<BranchParent> parents = {{1, 0, 100}, {2, 1, 50}};
  EXPECT_TRUE(on_ancestry(0, 50, 2, parents));
  EXPECT_FALSE(on_ancestry(0, 51, 2, parents));
}

}  // namespace
}  // namespace tenax::checkpoint
