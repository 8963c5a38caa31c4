#include "scheduler/spike_ladder.h"

#include <gtest/gtest.h>

namespace tenax::scheduler {
namespace {

SpikeEvent rollback_event(std::int64_t onset, std::int64_t step) {
  SpikeEvent event;
  event.onset = onset;
  event.step = step;
  event.verdict = SpikeVerdict::kRollback;
  event.action = SpikeAction::kRollBack;
  event.reason = "the spike does not heal";
  return event;
}

/// Climbs and, if that rolls back, records it.
LadderDecision climb_and_record(const SpikeEvent& event, LadderHistory& history,
                                const SpikeOptions& options) {
  const LadderDecision decision = climb(event, history, options);
  if (decision.rung == LadderRung::kRollBack)
    history.rollbacks.push_back({history.rollbacks.size(), event.onset, decision.branch_point,
                                 decision.skip_first, decision.skip_last});
  return decision;
}

TEST(SpikeLadder, FirstRollbackGoesOneMarginBeforeTheOnsetAndSkipsOneMarginPastTheVerdict) {
  const LadderDecision decision = climb(rollback_event(5000, 5019), {}, {});
  EXPECT_EQ(decision.rung, LadderRung::kRollBack);
  EXPECT_EQ(decision.branch_point, 4900);
  EXPECT_EQ(decision.skip_first, 4901);
  EXPECT_EQ(decision.skip_last, 5119);
  EXPECT_EQ(decision.lr_factor, 1);
  EXPECT_LT(decision.soften_last, decision.soften_first);
  EXPECT_NE(decision.reason.find("4900"), std::string::npos) << decision.reason;
  EXPECT_NE(decision.reason.find("does not heal"), std::string::npos) << decision.reason;
}

TEST(SpikeLadder, NeverGoesBackBeforeTheInitialWeights) {
  const LadderDecision decision = climb(rollback_event(80, 99), {}, {});
  EXPECT_EQ(decision.branch_point, 0);
  EXPECT_EQ(decision.skip_first, 1);
}

TEST(SpikeLadder, GoesTwiceAsFarBackAndSoftensWhereItRecurs) {
  LadderHistory history;
  climb_and_record(rollback_event(5000, 5019), history, {});
  const LadderDecision second = climb_and_record(rollback_event(5040, 5060), history, {});
  EXPECT_EQ(second.rung, LadderRung::kRollBack);
  EXPECT_EQ(second.branch_point, 4800);
  EXPECT_DOUBLE_EQ(second.lr_factor, 0.7);
  EXPECT_EQ(second.soften_first, 4801);
  EXPECT_EQ(second.soften_last, 5160 + 1000);
  const LadderDecision third = climb_and_record(rollback_event(5100, 5120), history, {});
  EXPECT_EQ(third.branch_point, 4600);
  EXPECT_NEAR(third.lr_factor, 0.49, 1e-12);
}

TEST(SpikeLadder, StopsWhenThePlaceHasHadItsRollbacks) {
  LadderHistory history;
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(climb_and_record(rollback_event(5000, 5019), history, {}).rung,
              LadderRung::kRollBack);
  const LadderDecision fourth = climb(rollback_event(5000, 5019), history, {});
  EXPECT_EQ(fourth.rung, LadderRung::kStop);
  EXPECT_NE(fourth.reason.find("3 rollbacks near this place"), std::string::npos) << fourth.reason;
}

TEST(SpikeLadder, AFarSpikeIsAFreshOne) {
  LadderHistory history;
  climb_and_record(rollback_event(5000, 5019), history, {});
  const LadderDecision far = climb(rollback_event(7000, 7019), history, {});
  EXPECT_EQ(far.rung, LadderRung::kRollBack);
  EXPECT_EQ(far.branch_point, 6900);
  EXPECT_EQ(far.lr_factor, 1);
}

TEST(SpikeLadder, StopsAtTheRunsBudget) {
  SpikeOptions options;
  options.max_rollbacks = 4;
  LadderHistory history;
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(
        climb_and_record(rollback_event(5000 * (i + 1), 5000 * (i + 1) + 19), history, options)
            .rung,
        LadderRung::kRollBack);
  EXPECT_EQ(climb(rollback_event(90000, 90019), history, options).rung, LadderRung::kStop);
}

TEST(SpikeLadder, StopsBeforeTooMuchDataIsSkipped) {
  LadderHistory history;
  history.total_steps = 10000;  // 2 %: 200 steps; one window of 219 is always allowed
  EXPECT_EQ(climb_and_record(rollback_event(2000, 2019), history, {}).rung, LadderRung::kRollBack);
  const LadderDecision second = climb(rollback_event(6000, 6019), history, {});
  EXPECT_EQ(second.rung, LadderRung::kStop);
  EXPECT_NE(second.reason.find("438 of 10000"), std::string::npos) << second.reason;
  history.total_steps = 100000;
  EXPECT_EQ(climb(rollback_event(6000, 6019), history, {}).rung, LadderRung::kRollBack);
}

TEST(SpikeLadder, TriesOlderCheckpointsBeforeStoppingOnAFailedRestore) {
  SpikeEvent event;
  event.verdict = SpikeVerdict::kRestoreMismatch;
  event.action = SpikeAction::kStop;
  event.reason = "the loss is 11, not 2";
  LadderHistory history;
  EXPECT_EQ(climb(event, history, {}).rung, LadderRung::kLoadOlder);
  history.restore_failures = 1;
  EXPECT_EQ(climb(event, history, {}).rung, LadderRung::kLoadOlder);
  history.restore_failures = 2;
  EXPECT_EQ(climb(event, history, {}).rung, LadderRung::kStop);
}

TEST(SpikeLadder, DoesWhatCheaperVerdictsRecommend) {
  SpikeEvent event;
  event.action = SpikeAction::kNone;
  EXPECT_EQ(climb(event, {}, {}).rung, LadderRung::kNothing);
  event.action = SpikeAction::kSkipUpdate;
  EXPECT_EQ(climb(event, {}, {}).rung, LadderRung::kSkipUpdate);
  event.action = SpikeAction::kReplayStep;
  EXPECT_EQ(climb(event, {}, {}).rung, LadderRung::kReplayStep);
  event.action = SpikeAction::kStop;
  EXPECT_EQ(climb(event, {}, {}).rung, LadderRung::kStop);
}

TEST(SpikeLadder, IsAFunctionOfItsArguments) {
  LadderHistory history;
  climb_and_record(rollback_event(5000, 5019), history, {});
  const LadderDecision once = climb(rollback_event(5040, 5060), history, {});
  const LadderDecision again = climb(rollback_event(5040, 5060), history, {});
  EXPECT_EQ(once.branch_point, again.branch_point);
  EXPECT_EQ(once.skip_last, again.skip_last);
  EXPECT_EQ(once.reason, again.reason);
}

}  // namespace
}  // namespace tenax::scheduler
