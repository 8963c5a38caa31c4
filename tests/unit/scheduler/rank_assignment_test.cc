#include "scheduler/rank_assignment.h"

#include <gtest/gtest.h>

#include <numeric>

namespace tenax::scheduler {
namespace {

/// A run whose seats have played ranks 0, 1, ... of `degrees` and still hold their weights.
RunState trained(const Degrees& degrees) {
  RunState state;
  state.degrees = degrees;
  for (int rank = 0; rank < degrees.world_size(); ++rank) {
    Seat seat;
    seat.rank = rank;
    seat.state = SeatState::kStopped;
    seat.held.has_weights = true;
    seat.held.rank = rank;
    seat.held.degrees = degrees;
    state.seats.push_back(seat);
  }
  return state;
}

std::vector<bool> all(std::size_t n) { return std::vector<bool>(n, true); }

TEST(RankAssignment, AShardIsTheSameInEveryReplica) {
  RankState held;
  held.has_weights = true;
  held.degrees = {2, 1, 2};
  held.rank = 1;  // replica 1 of stage 0
  EXPECT_TRUE(holds_shard_of(held, {3, 1, 2}, 0));
  EXPECT_TRUE(holds_shard_of(held, {1, 1, 2}, 0));
  EXPECT_FALSE(holds_shard_of(held, {1, 1, 2}, 1)) << "the other stage";
  EXPECT_FALSE(holds_shard_of(held, {2, 1, 1}, 0)) << "another cut of the model";
  held.has_weights = false;
  EXPECT_FALSE(holds_shard_of(held, {2, 1, 2}, 1));
}

TEST(RankAssignment, WhoStaysKeepsItsRank) {
  const RunState state = trained({2, 1, 2});
  EXPECT_EQ(assign_ranks(state, {2, 1, 2}, {0, 1, 2, 3}, all(4)), (std::vector{0, 1, 2, 3}));
}

TEST(RankAssignment, WithOneReplicaLessEachStageStaysWithWhoHoldsIt) {
  // Ranks 0 and 1 are the replicas of stage 0, ranks 2 and 3 those of stage 1.
  const RunState state = trained({2, 1, 2});
  EXPECT_EQ(assign_ranks(state, {1, 1, 2}, {1, 2, 3}, all(3)), (std::vector{1, 2}));
  EXPECT_EQ(assign_ranks(state, {1, 1, 2}, {0, 1, 3}, all(3)), (std::vector{0, 3}));
}

TEST(RankAssignment, ASpareTakesTheLostRank) {
  RunState state = trained({2, 1, 2});
  Seat spare;
  spare.state = SeatState::kFresh;
  state.seats.push_back(spare);
  EXPECT_EQ(assign_ranks(state, {2, 1, 2}, {0, 1, 3, 4}, all(4)), (std::vector{0, 1, 4, 3}));
}

TEST(RankAssignment, AReplacedWorkerKeepsItsPlace) {
  RunState state = trained({3, 1, 1});
  state.seats[1].held = {};
  state.seats[1].state = SeatState::kFresh;
  EXPECT_EQ(assign_ranks(state, {3, 1, 1}, {0, 1, 2}, all(3)), (std::vector{0, 1, 2}));
}

TEST(RankAssignment, WhatIsInMemorySufficesAsLongAsAReplicaOfEachStageStays) {
  const RunState state = trained({2, 1, 2});
  EXPECT_TRUE(memory_suffices(state, {1, 1, 2}, {true, false, false, true}));
  EXPECT_FALSE(memory_suffices(state, {1, 1, 2}, {true, true, false, false}));
  EXPECT_FALSE(memory_suffices(state, {4, 1, 1}, all(4)));
  EXPECT_TRUE(memory_suffices(state, {5, 1, 2}, all(4)));
}

TEST(RankAssignment, WithAShardedOptimizerEveryRankIsUnlikeTheOthers) {
  RankState held;
  held.has_weights = true;
  held.degrees = {2, 1, 2};
  held.rank = 1;
  EXPECT_TRUE(holds_shard_of(held, {2, 1, 2}, 1, 1));
  EXPECT_FALSE(holds_shard_of(held, {2, 1, 2}, 0, 1)) << "the other replica";
  EXPECT_FALSE(holds_shard_of(held, {3, 1, 2}, 1, 1)) << "another cut of the optimizer's state";
  const RunState state = trained({2, 1, 2});
  EXPECT_TRUE(memory_suffices(state, {2, 1, 2}, all(4), 1));
  EXPECT_FALSE(memory_suffices(state, {2, 1, 2}, {true, true, true, false}, 1));
  EXPECT_FALSE(memory_suffices(state, {1, 1, 2}, {true, false, true, false}, 1));
}

}  // namespace
}  // namespace tenax::scheduler
