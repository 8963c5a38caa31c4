#include "scheduler/pipeline_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace tenax::scheduler {
namespace {

constexpr auto kGpipe = ScheduleKind::kGpipe;
constexpr auto kOneForwardOneBackward = ScheduleKind::kOneForwardOneBackward;

/// Plays all ranks at once. A receive waits for its message; computing waits until the outbox of
/// its result is free, which it is when the receiver has taken what lay in it. True if every rank
/// comes to its end with no message left over.
class Play {
 public:
  Play(const Pipeline& pipeline, std::vector<PipelineSchedule> ranks, int num_outboxes)
      : p_(pipeline),
        ranks_(std::move(ranks)),
        num_outboxes_(num_outboxes),
        at_(ranks_.size(), 0) {}

  bool runs_through() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t r = 0; r < ranks_.size(); ++r) {
        while (at_[r] < ranks_[r].size() && act(static_cast<int>(r), ranks_[r][at_[r]])) {
          ++at_[r];
          moved = true;
        }
      }
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (at_[r] != ranks_[r].size()) return false;
    }
    return on_the_way_.empty();
  }

 private:
  using Message = std::tuple<bool, int, int>;  // forward, virtual stage that receives, microbatch

  bool act(int rank, const Action& a) {
    const int v = a.chunk * p_.num_stages + rank;
    const int last = p_.num_stages * p_.num_chunks - 1;
    switch (a.kind) {
      case ActionKind::kRecvForward:
        return on_the_way_.erase({true, v, a.microbatch}) > 0;
      case ActionKind::kRecvBackward:
        return on_the_way_.erase({false, v, a.microbatch}) > 0;
      case ActionKind::kForward:
        return v == last || outbox_is_free({true, v + 1, a.microbatch});
      case ActionKind::kBackward:
        return v == 0 || outbox_is_free({false, v - 1, a.microbatch});
      case ActionKind::kSendForward:
        return on_the_way_.insert({true, v + 1, a.microbatch}).second;
      case ActionKind::kSendBackward:
        return on_the_way_.insert({false, v - 1, a.microbatch}).second;
    }
    return false;
  }

  bool outbox_is_free(const Message& next) const {
    return std::none_of(on_the_way_.begin(), on_the_way_.end(), [&](const Message& m) {
      return std::get<0>(m) == std::get<0>(next) && std::get<1>(m) == std::get<1>(next) &&
             (std::get<2>(next) - std::get<2>(m)) % num_outboxes_ == 0;
    });
  }

  Pipeline p_;
  std::vector<PipelineSchedule> ranks_;
  int num_outboxes_;
  std::vector<std::size_t> at_;
  std::set<Message> on_the_way_;
};

std::vector<int> order_of(const PipelineSchedule& schedule, ActionKind kind, int chunk = 0) {
  std::vector<int> order;
  for (const Action& a : schedule) {
    if (a.kind == kind && a.chunk == chunk) order.push_back(a.microbatch);
  }
  return order;
}

template <class F>
void for_all_schedules(F&& f) {
  for (const ScheduleKind kind : {kGpipe, kOneForwardOneBackward}) {
    for (int stages = 1; stages <= 5; ++stages) {
      const bool interleaves = kind == kOneForwardOneBackward && stages > 1;
      for (int chunks = 1; chunks <= (interleaves ? 3 : 1); ++chunks) {
        for (int m = 0; m <= 14; ++m) {
          SCOPED_TRACE(testing::Message()
                       << stages << " stages of " << chunks << " chunks, " << m << " microbatches");
          f(kind, Pipeline{stages, chunks}, m);
        }
      }
    }
  }
}

TEST(PipelineSchedule, EveryMicrobatchGoesForwardThenBackwardOnceAndNoLiveSlotIsReused) {
  for_all_schedules([](ScheduleKind kind, const Pipeline& p, int m) {
    for (int stage = 0; stage < p.num_stages; ++stage) {
      const PipelineSchedule schedule = make_schedule(kind, p, stage, m);
      for (int chunk = 0; chunk < p.num_chunks; ++chunk) {
        std::map<int, int> live;  // microbatch of each slot
        std::set<int> backward;
        for (const Action& a : schedule) {
          if (a.chunk != chunk) continue;
          ASSERT_GE(a.slot, 0);
          ASSERT_LT(a.slot, num_slots(schedule, chunk));
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
  });
}

TEST(PipelineSchedule, NobodyWaitsForEver) {
  for_all_schedules([](ScheduleKind kind, const Pipeline& p, int m) {
    std::vector<PipelineSchedule> all;
    for (int s = 0; s < p.num_stages; ++s) all.push_back(make_schedule(kind, p, s, m));
    EXPECT_TRUE(Play(p, all, num_outboxes(p, m)).runs_through());
  });
}

TEST(PipelineSchedule, NeighboursAgreeOnTheOrderOfMessages) {
  for_all_schedules([](ScheduleKind kind, const Pipeline& p, int m) {
    std::vector<PipelineSchedule> all;
    for (int s = 0; s < p.num_stages; ++s) all.push_back(make_schedule(kind, p, s, m));
    for (int v = 0; v + 1 < p.num_stages * p.num_chunks; ++v) {
      const PipelineSchedule& from = all[static_cast<std::size_t>(v % p.num_stages)];
      const PipelineSchedule& to = all[static_cast<std::size_t>((v + 1) % p.num_stages)];
      const int sender = v / p.num_stages;
      const int receiver = (v + 1) / p.num_stages;
      EXPECT_EQ(order_of(from, ActionKind::kSendForward, sender),
                order_of(to, ActionKind::kRecvForward, receiver));
      EXPECT_EQ(order_of(to, ActionKind::kSendBackward, receiver),
                order_of(from, ActionKind::kRecvBackward, sender));
    }
  });
}

TEST(PipelineSchedule, BackwardsOfAChunkAscendSoThatGradientsAddUpInOneOrder) {
  for_all_schedules([](ScheduleKind kind, const Pipeline& p, int m) {
    for (int stage = 0; stage < p.num_stages; ++stage) {
      for (int chunk = 0; chunk < p.num_chunks; ++chunk) {
        const auto order = order_of(make_schedule(kind, p, stage, m), ActionKind::kBackward, chunk);
        EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
      }
    }
  });
}

TEST(PipelineSchedule, OneForwardOneBackwardHoldsNoMoreThanTheStagesBehindIt) {
  const auto slots = [](ScheduleKind kind, int stage, int stages, int m) {
    return num_slots(make_schedule(kind, {stages, 1}, stage, m), 0);
  };
  EXPECT_EQ(slots(kOneForwardOneBackward, 0, 4, 100), 4);
  EXPECT_EQ(slots(kOneForwardOneBackward, 3, 4, 100), 1);
  EXPECT_EQ(slots(kOneForwardOneBackward, 0, 4, 2), 2);
  EXPECT_EQ(slots(kGpipe, 2, 4, 7), 7);
}

TEST(PipelineSchedule, TheLastInterleavedRankGoesBackwardAfterOneGroupAndOnePass) {
  const auto passes_before_backward = [](const Pipeline& p) {
    const PipelineSchedule schedule = make_schedule(kOneForwardOneBackward, p, 3, 8);
    int forward = 0;
    for (const Action& a : schedule) {
      if (a.kind == ActionKind::kBackward) break;
      if (a.kind == ActionKind::kForward) ++forward;
    }
    return forward;
  };
  EXPECT_EQ(passes_before_backward({4, 1}), 1);
  EXPECT_EQ(passes_before_backward({4, 2}), 5);
}

TEST(PipelineSchedule, TheForwardScheduleRunsThroughInOneSlotAndTwoOutboxes) {
  for_all_schedules([](ScheduleKind, const Pipeline& p, int m) {
    std::vector<PipelineSchedule> all;
    for (int s = 0; s < p.num_stages; ++s) all.push_back(make_forward_schedule(p, s, m));
    EXPECT_TRUE(Play(p, all, 2).runs_through());
    for (const PipelineSchedule& schedule : all) {
      for (const Action& a : schedule) EXPECT_EQ(a.slot, 0);
      EXPECT_TRUE(order_of(schedule, ActionKind::kBackward).empty());
    }
  });
}

}  // namespace
}  // namespace tenax::scheduler
