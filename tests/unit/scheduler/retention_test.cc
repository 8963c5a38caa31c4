#include "scheduler/retention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tenax::scheduler {
namespace {

RetentionCandidate candidate(std::uint64_t id, std::int64_t step, bool verified,
                             std::uint64_t branch = 0, bool current = true) {
  return {id, branch, step, verified, current, false};
}

using Ids = std::vector<std::uint64_t>;

Ids removed(const std::vector<RetentionCandidate>& all, const RetentionPolicy& policy) {
  Ids ids;
  for (const RetentionVerdict& v : choose_deletions(all, policy)) ids.push_back(v.checkpoint_id);
  return ids;
}

Ids kept(const std::vector<RetentionCandidate>& all, const RetentionPolicy& policy) {
  const Ids gone = removed(all, policy);
  Ids ids;
  for (const RetentionCandidate& c : all) {
    if (std::find(gone.begin(), gone.end(), c.id) == gone.end()) ids.push_back(c.id);
  }
  return ids;
}

std::vector<RetentionCandidate> unverified(std::uint64_t first, std::uint64_t last) {
  std::vector<RetentionCandidate> all;
  for (std::uint64_t i = first; i <= last; ++i) {
    all.push_back(candidate(i, static_cast<std::int64_t>(10 * i), false));
  }
  return all;
}

TEST(Retention, KeepsTheLastAndEveryNth) {
  const RetentionPolicy policy{.keep_last = 2, .keep_every = 40};
  EXPECT_EQ(kept(unverified(1, 10), policy), (Ids{4, 8, 9, 10}));
  EXPECT_EQ(removed(unverified(1, 10), policy), (Ids{1, 2, 3, 5, 6, 7})) << "oldest first";
}

TEST(Retention, ARunThatWentBadDoesNotDeleteItsHealthyCheckpoints) {
  std::vector<RetentionCandidate> all = unverified(3, 60);
  all.push_back(candidate(1, 10, true));
  all.push_back(candidate(2, 20, true));
  EXPECT_EQ(kept(all, {.keep_last = 2}), (Ids{59, 60, 1, 2}));
}

TEST(Retention, NewestVerifiedAndItsPredecessorStayWhateverThePolicySays) {
  const std::vector<RetentionCandidate> all = {candidate(1, 10, true), candidate(2, 20, true),
                                               candidate(3, 30, true), candidate(4, 40, false)};
  EXPECT_EQ(kept(all, {.keep_last = 0, .keep_every = 0, .keep_verified = 0}), (Ids{2, 3, 4}));
}

TEST(Retention, LeftBranchesGoFirstEvenIfVerifiedAndNewer) {
  const std::vector<RetentionCandidate> all = {
      candidate(1, 10, false),          candidate(2, 20, true),
      candidate(3, 30, true),           candidate(4, 40, true, 0, false),
      candidate(5, 50, true, 0, false), candidate(6, 35, false, 1)};
  EXPECT_EQ(removed(all, {.keep_last = 1}), (Ids{4, 5, 1}));
}

TEST(Retention, AQuarantinedOneTakesNoPlaceAndGoesWhenEnoughNewerOnesAreThere) {
  std::vector<RetentionCandidate> all = unverified(1, 3);
  all[2].quarantined = true;
  EXPECT_EQ(kept(all, {.keep_last = 2}), (Ids{1, 2, 3}));
  all.push_back(candidate(4, 40, false));
  EXPECT_EQ(kept(all, {.keep_last = 2}), (Ids{2, 3, 4}));
  all.push_back(candidate(5, 50, false));
  EXPECT_EQ(kept(all, {.keep_last = 2}), (Ids{4, 5}));
}

TEST(Retention, VerifiedOnesStandAtGrowingDistancesThroughoutARun) {
  std::vector<RetentionCandidate> held;
  for (std::uint64_t i = 1; i <= 500; ++i) {
    held.push_back(candidate(i, static_cast<std::int64_t>(10 * i), true));
    const Ids ids = kept(held, {.keep_last = 1, .keep_every = 0, .keep_verified = 3});
    std::erase_if(held, [&](const RetentionCandidate& c) {
      return std::find(ids.begin(), ids.end(), c.id) == ids.end();
    });
    ASSERT_EQ(held.size(), std::min<std::size_t>(i, 3));
    if (i < 5) continue;
    ASSERT_EQ(held[2].step - held[1].step, 10);
    const std::int64_t oldest = held[2].step - held[0].step;
    ASSERT_GE(oldest, 20) << "step " << 10 * i;
    ASSERT_LE(oldest, 50) << "step " << 10 * i;
  }
}

TEST(Retention, TheOrderOfTheInputDoesNotMatter) {
  std::mt19937_64 rng(4);
  std::vector<RetentionCandidate> all;
  for (std::uint64_t i = 1; i <= 30; ++i) {
    all.push_back(
        candidate(i, static_cast<std::int64_t>(rng() % 300), rng() % 2 == 0, 0, rng() % 4 != 0));
    all.back().quarantined = rng() % 5 == 0;
  }
  const RetentionPolicy policy{.keep_last = 3, .keep_every = 100, .keep_verified = 3};
  const auto first = choose_deletions(all, policy);
  EXPECT_FALSE(first.empty());
  for (int round = 0; round < 20; ++round) {
    std::shuffle(all.begin(), all.end(), rng);
    EXPECT_EQ(choose_deletions(all, policy), first);
  }
}

}  // namespace
}  // namespace tenax::scheduler
