// What the controller does about spikes and wrong computations: rollbacks by hand, steps computed
// again before a rollback is paid for, replays that are not what was journalled.
#include <gtest/gtest.h>

#include <cmath>

#include "scheduler/exit_code.h"
#include "scheduler/run_json.h"
#include "tests/unit/scheduler/run_controller_cases.h"

namespace tenax::scheduler {
namespace {

using test::ControlledRun;
using test::ControlledRunOptions;

RollbackRequested go_back(std::int64_t to, std::int64_t first = 0, std::int64_t last = -1) {
  return {to, first, last, 1, 0, "tenax rollback"};
}

TEST(RollbackByHand, GoesToTheStepAndSkipsTheSamples) {
  auto options = run_of(2, 2);
  options.save_interval = 3;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(11));
  run.feed(go_back(7, 9, 10));
  EXPECT_EQ(run.state.branch, 1u);
  EXPECT_EQ(run.state.counted_step, 7);
  ASSERT_EQ(run.state.skip_windows.size(), 1u);
  EXPECT_EQ(run.state.skip_windows[0], (SkipWindow{32, 40}));
  EXPECT_TRUE(run.noted("asked for by tenax rollback"));
  run.run_until_training();
  EXPECT_EQ(run.plan().step, 6) << "the newest checkpoint before it; step 7 is replayed";
  expect_a_clean_end(run);
}

TEST(RollbackByHand, SkipsSamplesThatAreStillToCome) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.feed(go_back(6, 9, 10));
  ASSERT_EQ(run.state.skip_windows.size(), 1u);
  EXPECT_EQ(run.state.skip_windows[0], (SkipWindow{32, 40}));
  expect_a_clean_end(run);
}

TEST(RollbackByHand, LowersTheLearningRateForAWhile) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.feed(RollbackRequested{4, 0, -1, 0.5, 10, "tenax rollback"});
  ASSERT_EQ(run.state.softenings.size(), 1u);
  EXPECT_EQ(run.state.softenings[0], (Softening{5, 14, 0.5}));
  EXPECT_TRUE(run.state.skip_windows.empty());
  run.run_until_training();
  EXPECT_EQ(run.plan().softenings, run.state.softenings);
  expect_a_clean_end(run);
}

TEST(RollbackByHand, WhatCannotBeIsRefusedWithTheReasonAndChangesNothing) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  const std::string before = to_json(run.state);
  for (const RollbackRequested& wrong :
       {go_back(7), go_back(-1), go_back(4, 3, 5), RollbackRequested{4, 0, -1, 0, 5, "me"}}) {
    const auto commands = run.feed(wrong);
    ASSERT_EQ(commands.size(), 1u);
    EXPECT_NE(std::get<Note>(commands[0]).text.find("is refused: "), std::string::npos);
    EXPECT_EQ(to_json(run.state), before);
  }
  expect_a_clean_end(run);
}

TEST(RollbackByHand, OfAStoppedRunTakesEffectWhenItIsResumed) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(8));
  run.feed(StopRequested{StopKind::kGraceful, "test"});
  run.run_to_end();
  ASSERT_EQ(run.state.exit_code, kExitStopped);
  run.crash_supervisor();
  run.controller().decide(run.state, go_back(3, 4, 5), run.now());
  EXPECT_EQ(run.state.counted_step, 3);
  run.restart_supervisor();
  run.run_until_training();
  EXPECT_EQ(run.plan().branch, 1u);
  expect_a_clean_end(run);
}

// --- Steps computed again before a rollback

ControlledRunOptions poisoned_run() {
  auto options = run_of(2, 1);
  options.total_steps = 30;
  options.save_interval = 3;
  options.poisoned = {40, 48};  // steps 11 and 12
  options.controller.spikes.spikes.non_finite_patience = 2;
  options.controller.replay_limit = 100;
  return options;
}

/// Trains until steps are being computed again.
void train_to_replay(ControlledRun& run) {
  run.start();
  run.run_until_training();
  while (!run.state.replay) ASSERT_TRUE(run.train_to(run.state.counted_step + 1));
}

TEST(CauseOfASpike, NobodyTrainsUntilTheStepsWereComputedAgain) {
  ControlledRun run(poisoned_run());
  train_to_replay(run);
  ASSERT_EQ(run.all<ReplaySteps>().size(), 1u);
  const ReplaySteps asked = run.all<ReplaySteps>().front();
  EXPECT_EQ(asked.from, 6) << "the newest verified one; that of step 9 is only committed";
  EXPECT_EQ(asked.to, 12) << "the verdict's step is the newest";
  EXPECT_EQ(asked.checkpoint_id, run.checkpoint_of(6)->id);
  const std::size_t plans = run.num_plans();
  for (int i = 0; i < 20; ++i) {
    run.settle();
    run.fire_timer();
  }
  EXPECT_EQ(run.num_plans(), plans);
  EXPECT_EQ(run.state.rollbacks, 0);
}

TEST(CauseOfASpike, TheSameBitsMeanDataAndWeightsSoTheSamplesAreSkipped) {
  ControlledRun run(poisoned_run());
  train_to_replay(run);
  run.feed(ReplayEnded{run.state.replay->id, 3, 0, -1, "", ""});
  EXPECT_TRUE(run.noted("no device is to blame"));
  EXPECT_EQ(run.state.rollbacks, 1);
  ASSERT_EQ(run.state.skip_windows.size(), 1u);
  EXPECT_EQ(run.state.skip_windows[0], (SkipWindow{36, 56}));
  EXPECT_TRUE(run.all<SuspectDevice>().empty());
  expect_a_clean_end(run);
}

TEST(CauseOfASpike, OtherBitsMeanADeviceSoNothingIsSkippedAndItIsNamed) {
  auto options = poisoned_run();
  options.poisoned = {};
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(11));
  for (int i = 0; i < 2; ++i) {  // what a faulty device reported
    StepReport bad = run.state.spikes.history.back();
    ++bad.step;
    bad.position_begin += 4;
    bad.position_end += 4;
    bad.loss = std::nan("");
    bad.update = UpdateKind::kSkippedNonFinite;
    run.feed(StepReported{run.state.generation, bad});
  }
  ASSERT_TRUE(run.state.replay) << run.notes();
  run.feed(ReplayEnded{run.state.replay->id, 2, 12, 1, "replica 1 reported the loss nan", ""});
  ASSERT_EQ(run.all<SuspectDevice>().size(), 1u);
  EXPECT_EQ(run.all<SuspectDevice>().front().rank, 1u);
  EXPECT_TRUE(run.state.skip_windows.empty());
  EXPECT_EQ(run.state.branch, 1u);
  EXPECT_EQ(run.state.counted_step, 11);
  EXPECT_TRUE(run.noted("no sample is skipped"));
  expect_a_clean_end(run);
}

TEST(CauseOfASpike, AReplayThatCannotBeDoneDoesNotHoldTheRollbackUp) {
  ControlledRun run(poisoned_run());
  train_to_replay(run);
  run.feed(ReplayEnded{run.state.replay->id, 0, 0, -1, "", "killed by signal 9 (Killed)"});
  EXPECT_EQ(run.state.rollbacks, 1);
  EXPECT_EQ(run.state.skip_windows.size(), 1u);
  expect_a_clean_end(run);
}

TEST(CauseOfASpike, ANewSupervisorHasTheStepsComputedAgainAnew) {
  ControlledRun run(poisoned_run());
  train_to_replay(run);
  run.settle();
  run.crash_supervisor();
  run.restart_supervisor();
  run.settle();
  ASSERT_TRUE(run.state.replay);
  ASSERT_EQ(run.all<ReplaySteps>().size(), 2u);
  EXPECT_EQ(run.all<ReplaySteps>().back().id, run.state.replay->id);
  run.feed(ReplayEnded{run.state.replay->id, 3, 0, -1, "", ""});
  EXPECT_EQ(run.state.skip_windows.size(), 1u);
  expect_a_clean_end(run);
}

TEST(CauseOfASpike, TooManyStepsAreNotComputedAgain) {
  auto options = poisoned_run();
  options.controller.replay_limit = 2;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  while (run.state.rollbacks == 0) ASSERT_TRUE(run.train_to(run.state.counted_step + 1));
  EXPECT_TRUE(run.all<ReplaySteps>().empty());
  EXPECT_TRUE(run.noted("the cause is not looked for"));
  expect_a_clean_end(run);
}

TEST(CauseOfASpike, DamagedTokensEndTheRunAndAreUndoneWhenItIsResumed) {
  auto options = poisoned_run();
  options.poisoned = {};
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(11));
  for (int i = 0; i < 2; ++i) {
    StepReport bad = run.state.spikes.history.back();
    ++bad.step;
    bad.position_begin += 4;
    bad.position_end += 4;
    bad.loss = std::nan("");
    bad.update = UpdateKind::kSkippedNonFinite;
    run.feed(StepReported{run.state.generation, bad});
  }
  ASSERT_TRUE(run.state.replay);
  const std::uint64_t id = run.state.replay->id;
  run.feed(ReplayEnded{id, 0, 0, -1, "", "token file train.tok: damaged tokens", true});
  EXPECT_EQ(run.state.exit_code, kExitStore);
  run.crash_supervisor();
  run.restart_supervisor();
  run.settle();
  ASSERT_EQ(run.all<ReplaySteps>().size(), 2u);
  run.feed(ReplayEnded{id, 2, 12, 1, "replica 1 reported the loss nan", ""});
  EXPECT_TRUE(run.noted("computed from damaged tokens"));
  EXPECT_TRUE(run.all<SuspectDevice>().empty());
  EXPECT_EQ(run.state.counted_step, 11);
  EXPECT_TRUE(run.state.skip_windows.empty());
  expect_a_clean_end(run);
}

TEST(CauseOfASpike, AResultOfAnEarlierReplayChangesNothing) {
  ControlledRun run(poisoned_run());
  train_to_replay(run);
  const std::string before = to_json(run.state);
  run.feed(ReplayEnded{run.state.replay->id + 7, 3, 0, -1, "", ""});
  EXPECT_EQ(to_json(run.state), before);
}

TEST(Replicas, ThatDifferAreJudgedByAReplayAndTheRunGoesBackWithoutSkipping) {
  auto options = run_of(2, 1);
  options.controller.replay_limit = 100;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.make_faulty(1);
  while (!run.state.replay) ASSERT_TRUE(run.train_to(run.state.counted_step + 1));
  EXPECT_EQ(run.state.replay->from, 5);
  EXPECT_EQ(run.state.replay->to, 10);
  run.heal(1);
  run.feed(ReplayEnded{run.state.replay->id, 3, 9, 1, "replica 1 reported another loss", ""});
  ASSERT_EQ(run.all<SuspectDevice>().size(), 1u);
  EXPECT_EQ(run.all<SuspectDevice>().front().rank, 1u);
  EXPECT_EQ(run.state.counted_step, 8);
  expect_a_clean_end(run);
}

TEST(WrongComputations, OfAnAgentExcludeItIfTheOthersCanGoOn) {
  auto options = run_of(2, 1, 2);
  options.total_steps = 40;
  options.save_interval = 3;
  options.controller.replay_limit = 100;
  options.controller.spikes.spikes.non_finite_patience = 2;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  // The second time nobody would be left.
  for (const std::uint32_t faulty : {1u, 0u}) {
    const std::int64_t at = run.state.counted_step + 10;
    ASSERT_TRUE(run.train_to(at));
    for (int i = 0; i < 2; ++i) {
      StepReport bad = run.state.spikes.history.back();
      ++bad.step;
      bad.position_begin += 4;
      bad.position_end += 4;
      bad.loss = std::nan("");
      bad.update = UpdateKind::kSkippedNonFinite;
      run.feed(StepReported{run.state.generation, bad});
    }
    ASSERT_TRUE(run.state.replay) << run.notes();
    run.feed(ReplayEnded{run.state.replay->id, 1, at + 1, static_cast<std::int32_t>(faulty),
                         "its replica reported the loss nan", ""});
    run.run_until_training();
    EXPECT_TRUE(run.state.agents[1].excluded_until) << run.notes();
    EXPECT_FALSE(run.state.agents[0].excluded_until) << run.notes();
    EXPECT_EQ(run.state.degrees.dp, 1);
  }
  EXPECT_TRUE(run.noted("its ranks computed wrongly"));
  run.run_to_end();
  EXPECT_EQ(run.violation(), "") << run.notes();
  EXPECT_EQ(run.state.exit_code, kExitDone);
}

// --- Replays that are not what was journalled

void go_back_to_step_10(ControlledRun& run) {
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(12));
  run.kill_worker(0);
  run.run_until_training();
  ASSERT_EQ(run.state.loaded_step, 10);
}

TEST(ReplayMismatch, AnOlderCheckpointIsLoadedAndTheFirstIsQuarantinedIfItWasToBlame) {
  ControlledRun run(run_of(1, 1));
  go_back_to_step_10(run);
  const std::uint64_t bad = run.state.loaded_checkpoint;
  StepReport report = run.state.spikes.history.at(10);  // step 11
  report.loss = 9;
  run.feed(StepReported{run.state.generation, report});
  EXPECT_TRUE(run.noted("an older checkpoint than that of step 10 is loaded"));
  run.run_until_training();
  EXPECT_EQ(run.state.loaded_step, 5);
  ASSERT_TRUE(run.train_to(12));
  EXPECT_TRUE(run.noted("replayed from another source, step 11 is as journalled"));
  for (const CheckpointInfo& c : run.state.checkpoints) EXPECT_EQ(c.quarantined, c.id == bad);
  EXPECT_EQ(run.state.branch, 0u);
  expect_a_clean_end(run);
}

TEST(ReplayMismatch, TwoReplaysThatAgreeReplaceWhatWasJournalled) {
  ControlledRun run(run_of(1, 1));
  go_back_to_step_10(run);
  StepReport report = run.state.spikes.history.at(10);
  report.loss = 9;
  run.feed(StepReported{run.state.generation, report});
  run.run_until_training();
  run.feed(StepReported{run.state.generation, report});
  EXPECT_TRUE(run.noted("two replays from different sources agree on step 11"));
  EXPECT_EQ(run.state.branch, 1u);
  EXPECT_EQ(run.state.counted_step, 10);
  EXPECT_TRUE(run.state.skip_windows.empty());
  expect_a_clean_end(run);
}

TEST(ReplayMismatch, AMachineThatComputesOtherNumbersEachTimeEndsTheRun) {
  ControlledRun run(run_of(1, 1));
  go_back_to_step_10(run);
  StepReport report = run.state.spikes.history.at(10);
  report.loss = 9;
  run.feed(StepReported{run.state.generation, report});
  run.run_until_training();
  report.loss = 8;
  run.feed(StepReported{run.state.generation, report});
  EXPECT_EQ(run.state.exit_code, kExitGaveUp);
  EXPECT_NE(run.state.finish_reason.find("other numbers each time"), std::string::npos);
}

TEST(ReplayMismatch, OfRoundingOnlyIsToldAndNothingElse) {
  ControlledRun run(run_of(1, 1));
  go_back_to_step_10(run);
  StepReport report = run.state.spikes.history.at(10);
  report.loss = std::nextafter(report.loss, 10.0);
  run.feed(StepReported{run.state.generation, report});
  EXPECT_TRUE(run.noted("replayed step 11 differs"));
  EXPECT_FALSE(run.state.dispute);
  expect_a_clean_end(run);
}

TEST(ReplayMismatch, OfAChangedLearningRateSaysNothingAboutDevices) {
  ControlledRun run(run_of(1, 1));
  go_back_to_step_10(run);
  StepReport report = run.state.spikes.history.at(10);
  report.learning_rate *= 1.01;
  report.loss = 9;
  run.feed(StepReported{run.state.generation, report});
  EXPECT_TRUE(run.noted("the configuration was changed since"));
  EXPECT_FALSE(run.state.dispute);
  EXPECT_EQ(run.state.phase, Phase::kRunning);
}

TEST(RestoredWeights, AreJudgedByTheNextLossOnlyWhereNothingIsReplayed) {
  const auto after_a_death = [](int dp) {
    ControlledRun run(run_of(dp, 1));
    run.start();
    run.run_until_training();
    EXPECT_TRUE(run.train_to(12));
    run.kill_worker(0);
    run.run_until_training();
    return run.state.spikes.now.check_restore;
  };
  EXPECT_FALSE(after_a_death(1)) << "steps 11 and 12 are replayed and compared";
  EXPECT_TRUE(after_a_death(2)) << "weights from the peer";
}

TEST(Guard, AStepThatWasNotTheSameTwiceMakesItsRankSuspect) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  StepReport report = run.state.spikes.history.back();
  ++report.step;
  report.held = HoldOutcome::kDiffered;
  report.suspect_rank = 1;
  run.feed(StepReported{run.state.generation, report});
  EXPECT_TRUE(run.noted("held and computed again with other bits"));
  ASSERT_EQ(run.all<SuspectDevice>().size(), 1u);
  EXPECT_EQ(run.all<SuspectDevice>().front().rank, 1u);
}

}  // namespace
}  // namespace tenax::scheduler
