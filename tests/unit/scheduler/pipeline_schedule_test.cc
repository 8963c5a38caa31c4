#include "scheduler/pipeline_schedule.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <tuple>

namespace tenax::scheduler {
namespace {

/// Plays all stages at once; a send never blocks, a receive waits for its message. True if every
/// stage comes to its end with no message left over.
bool runs_through(const std::vector<PipelineSchedule>& stages) {
  std::vector<std::size_t> at(stages.size(), 0);
  std::set<std::tuple<ActionKind, std::size_t, int>> on_the_way;  // kind of receive, stage, mb
  bool moved = true;
  while (moved) {
    moved = false;
    for (std::size_t s = 0; s < stages.size(); ++s) {
      while (at[s] < stages[s].size()) {
        const Action a = stages[s][at[s]];
        if (a.kind == ActionKind::kSendForward)
          on_the_way.insert({ActionKind::kRecvForward, s + 1, a.microbatch});
        if (a.kind == ActionKind::kSendBackward)
          on_the_way.insert({ActionKind::kRecvBackward, s - 1, a.microbatch});
        const bool receives =
            a.kind == ActionKind::kRecvForward || a.kind == ActionKind::kRecvBackward;
        if (receives && on_the_way.erase({a.kind, s, a.microbatch}) == 0) break;
        ++at[s];
        moved = true;
      }
    }
  }
  for (std::size_t s = 0; s < stages.size(); ++s) {
    if (at[s] != stages[s].size()) return false;
  }
  return on_the_way.empty();
}

std::vector<int> order_of(const PipelineSchedule& schedule, ActionKind kind) {
  std::vector<int> order;
  for (const Action& a : schedule) {
    if (a.kind == kind) order.push_back(a.microbatch);
  }
  return order;
}

TEST(PipelineSchedule, EveryMicrobatchGoesForwardThenBackwardOnceAndNoLiveSlotIsReused) {
  for (const ScheduleKind kind : {ScheduleKind::kGpipe, ScheduleKind::kOneForwardOneBackward}) {
    for (int stages = 1; stages <= 5; ++stages) {
      for (int m = 0; m <= 9; ++m) {
        for (int stage = 0; stage < stages; ++stage) {
          const int slots = max_slots(kind, stage, stages, m);
          std::map<int, int> live;  // microbatch of each slot
          std::set<int> backward;
          for (const Action& a : make_schedule(kind, stage, stages, m)) {
            ASSERT_GE(a.slot, 0);
            ASSERT_LT(a.slot, slots);
            if (a.kind == ActionKind::kForward) {
              ASSERT_TRUE(live.emplace(a.slot, a.microbatch).second) << "slot is live";
            } else if (a.kind == ActionKind::kBackward) {
              ASSERT_EQ(live.at(a.slot), a.microbatch);
              live.erase(a.slot);
              ASSERT_TRUE(backward.insert(a.microbatch).second);
            }
          }
          EXPECT_TRUE(live.empty());
          EXPECT_EQ(static_cast<int>(backward.size()), m);
        }
      }
    }
  }
}

TEST(PipelineSchedule, NeighboursAgreeOnTheOrderOfMessagesAndNobodyWaitsForEver) {
  for (const ScheduleKind kind : {ScheduleKind::kGpipe, ScheduleKind::kOneForwardOneBackward}) {
    for (int stages = 1; stages <= 5; ++stages) {
      for (int m = 1; m <= 9; ++m) {
        std::vector<PipelineSchedule> all;
        for (int s = 0; s < stages; ++s) all.push_back(make_schedule(kind, s, stages, m));
        EXPECT_TRUE(runs_through(all)) << stages << " stages, " << m << " microbatches";
        for (int s = 0; s + 1 < stages; ++s) {
          EXPECT_EQ(order_of(all[s], ActionKind::kSendForward),
                    order_of(all[s + 1], ActionKind::kRecvForward));
          EXPECT_EQ(order_of(all[s + 1], ActionKind::kSendBackward),
                    order_of(all[s], ActionKind::kRecvBackward));
        }
      }
    }
  }
}

TEST(PipelineSchedule, BackwardsAscendSoThatGradientsAddUpInOneOrder) {
  const auto schedule = make_schedule(ScheduleKind::kOneForwardOneBackward, 1, 4, 6);
  EXPECT_EQ(order_of(schedule, ActionKind::kBackward), (std::vector{0, 1, 2, 3, 4, 5}));
}

TEST(PipelineSchedule, OneForwardOneBackwardHoldsNoMoreThanTheStagesBehindIt) {
  EXPECT_EQ(max_slots(ScheduleKind::kOneForwardOneBackward, 0, 4, 100), 4);
  EXPECT_EQ(max_slots(ScheduleKind::kOneForwardOneBackward, 3, 4, 100), 1);
  EXPECT_EQ(max_slots(ScheduleKind::kOneForwardOneBackward, 0, 4, 2), 2);
  EXPECT_EQ(max_slots(ScheduleKind::kGpipe, 2, 4, 7), 7);
}

TEST(PipelineSchedule, TheForwardScheduleRunsThroughInOneSlot) {
  std::vector<PipelineSchedule> all;
  for (int s = 0; s < 3; ++s) all.push_back(make_forward_schedule(s, 3, 5));
  EXPECT_TRUE(runs_through(all));
  for (const Action& a : all[1]) EXPECT_EQ(a.slot, 0);
  EXPECT_TRUE(order_of(all[1], ActionKind::kBackward).empty());
}

}  // namespace
}  // namespace tenax::scheduler
