// Checkpoints, rollbacks and the end of a run, as the run controller decides them.
#include <gtest/gtest.h>

#include "scheduler/exit_code.h"
#include "tests/unit/scheduler/run_controller_cases.h"

namespace tenax::scheduler {
namespace {

using test::ControlledRun;

/// In training at step 0; nothing of a snapshot is written unless the test says so.
ShardWritten shard(const ControlledRun& run, std::uint32_t rank, std::int64_t step,
                   const std::string& digest, std::uint64_t id = 9) {
  return {rank, run.state.generation, run.state.branch, step, id, 100, 0.1, digest};
}

TEST(RunControllerCheckpoints, CommitsOnlyWhenAllRanksWroteAndTheStepIsCounted) {
  auto options = run_of(1, 2);
  options.save_interval = 0;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(2));
  EXPECT_TRUE(run.feed(shard(run, 0, 3, "a")).empty());
  EXPECT_TRUE(run.feed(shard(run, 0, 3, "a")).empty()) << "the same rank again";
  EXPECT_TRUE(run.feed(shard(run, 1, 3, "b")).empty()) << "step 3 is not counted yet";
  StepReport next = run.state.spikes.history.back();
  next.step = 3;
  std::tie(next.position_begin, next.position_end) = run.positions(3, {});
  RunState state = run.state;
  const auto commands =
      run.controller().decide(state, StepReported{state.generation, next}, run.now());
  ASSERT_EQ(commands.size(), 1u);
  const auto& commit = std::get<CommitCheckpoint>(commands[0]);
  EXPECT_EQ(commit.checkpoint_id, 9u);
  EXPECT_EQ(commit.step, 3);
  EXPECT_EQ(commit.position, 12);
}

TEST(RunControllerCheckpoints, ReplicasWithDifferentBytesAreNotCommittedAndTheOddOneIsNamed) {
  ControlledRun run(run_of(3, 1));
  run.start();
  run.run_until_training();
  run.make_faulty(1);
  ASSERT_TRUE(run.train_to(5));
  EXPECT_TRUE(run.all<CommitCheckpoint>().empty());
  ASSERT_EQ(run.all<DiscardCheckpoint>().size(), 1u);
  EXPECT_TRUE(run.noted("rank 1 differ"));
  EXPECT_EQ(run.checkpoint_of(5), nullptr);
}

TEST(RunControllerCheckpoints, OfTwoReplicasBothAreNamed) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  run.make_faulty(1);
  ASSERT_TRUE(run.train_to(5));
  EXPECT_TRUE(run.noted("rank 0, rank 1 differ"));
}

TEST(RunControllerCheckpoints, AFailedSaveIsReportedAndTrainingGoesOn) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to_gradients_of(5));
  for (int rank : {0, 1}) ASSERT_TRUE(run.advance(rank));
  run.write_slot(0, false);
  ASSERT_TRUE(run.train_to(11));
  EXPECT_TRUE(run.noted("training goes on"));
  EXPECT_EQ(run.num_plans(), 1u);
  EXPECT_EQ(run.checkpoint_of(5), nullptr);
  EXPECT_NE(run.checkpoint_of(10), nullptr) << "the slots are free again";
}

TEST(RunControllerCheckpoints, AFailedCommitIsReportedAndTrainingGoesOn) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to_gradients_of(5));
  ASSERT_TRUE(run.advance(0));
  run.write_slot(0);
  while (run.deliver_from_worker(0) || run.deliver_from_agent(0)) {
  }
  ASSERT_TRUE(run.store_job(false));
  ASSERT_TRUE(run.train_to(11));
  EXPECT_EQ(run.checkpoint_of(5), nullptr);
  EXPECT_NE(run.checkpoint_of(10), nullptr);
}

/// Plays to the end with every commit failing.
void fail_every_commit(ControlledRun& run) {
  for (int i = 0; i < 5000 && run.state.phase != Phase::kFinished; ++i) {
    bool moved = run.deliver_exit() || run.store_job(false);
    for (std::uint32_t id = 0; id < static_cast<std::uint32_t>(run.num_agents()); ++id) {
      moved = run.deliver_to_agent(id) || run.deliver_from_agent(id) || run.write_slot(id) || moved;
    }
    for (int rank = 0; rank < run.world(); ++rank) {
      moved = run.boot(rank) || run.deliver_from_worker(rank) || run.advance(rank) || moved;
    }
    if (!moved) run.fire_timer();
  }
}

TEST(RunControllerCheckpoints, TheLastSaveIsTriedAgainAndThenTheRunEndsWithTheStoresExitCode) {
  auto options = run_of(2, 1);
  options.total_steps = 4;
  options.controller.max_save_failures = 3;
  ControlledRun run(options);
  run.start();
  fail_every_commit(run);
  EXPECT_EQ(run.state.exit_code, kExitStore);
  EXPECT_EQ(run.all<CommitCheckpoint>().size(), 3u);
  EXPECT_EQ(run.state.counted_step, 4);
}

TEST(RunControllerCheckpoints, FailuresWhileTrainingDoNotShortenTheTriesOfTheLastSave) {
  auto options = run_of(1, 1);
  options.total_steps = 12;
  options.save_interval = 2;
  options.controller.max_save_failures = 3;
  ControlledRun run(options);
  run.start();
  fail_every_commit(run);
  EXPECT_EQ(run.state.exit_code, kExitStore);
  // Five snapshots before the last one, then three tries of the last.
  EXPECT_EQ(run.all<CommitCheckpoint>().size(), 8u);
}

TEST(RunControllerCheckpoints, AShareOfTheLastSaveThatFailsBeforeAllRanksLeftIsTriedAgainAtOnce) {
  auto options = run_of(2, 1, 2);
  options.total_steps = 4;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to_gradients_of(4));
  ASSERT_TRUE(run.advance(0));
  ASSERT_TRUE(run.advance(1));
  run.write_slot(0, false);
  run.deliver_from_agent(0);
  const Time failed = run.now();
  run.run_to_end();
  EXPECT_EQ(run.violation(), "");
  EXPECT_EQ(run.state.exit_code, kExitDone);
  EXPECT_LT(run.now() - failed, options.controller.hang_timeout) << "it must not wait for a hang";
}

TEST(RunControllerCheckpoints, VerifiedNeedsTheReadBackAndCalmStepsAfterIt) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(5));
  ASSERT_NE(run.checkpoint_of(5), nullptr);
  EXPECT_TRUE(run.checkpoint_of(5)->read_back);
  EXPECT_FALSE(run.checkpoint_of(5)->verified);
  ASSERT_TRUE(run.train_to(6));
  EXPECT_FALSE(run.checkpoint_of(5)->verified);
  ASSERT_TRUE(run.train_to(7));
  EXPECT_TRUE(run.checkpoint_of(5)->verified);
}

TEST(RunControllerCheckpoints, TheTwoNewestVerifiedOnesAreNeverDeleted) {  // C3
  auto options = run_of(1, 1);
  options.total_steps = 60;
  options.save_interval = 3;
  options.controller.keep_last = 1;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  for (std::int64_t step = 1; step <= 59; ++step) {
    ASSERT_TRUE(run.train_to(step));
    std::vector<std::int64_t> verified;
    for (const CheckpointInfo& c : run.state.checkpoints) {
      if (c.verified) verified.push_back(c.step);
    }
    for (std::int64_t back = 0; back < 2; ++back) {
      const std::int64_t due = ((step - 2) / 3 - back) * 3;
      if (due > 0) {
        EXPECT_NE(std::find(verified.begin(), verified.end(), due), verified.end()) << due;
      }
    }
  }
  EXPECT_LT(run.manifests().size(), 6u);
  EXPECT_EQ(run.manifests().size(), run.state.checkpoints.size());
}

TEST(RunControllerCheckpoints, OneThatCannotBeReadIsQuarantinedAndTheNextOlderIsTaken) {
  ControlledRun run(run_of(1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(12));
  run.corrupt_checkpoint(run.checkpoint_of(10)->id);
  run.kill_worker(1);
  run.run_until_training();
  EXPECT_EQ(run.plan().step, 5);
  EXPECT_TRUE(run.checkpoint_of(10)->quarantined);
  EXPECT_FALSE(run.checkpoint_of(10)->verified);
  run.run_to_end();
  EXPECT_EQ(run.violation(), "");
  EXPECT_EQ(run.state.exit_code, kExitDone);
}

TEST(RunControllerCheckpoints, AQuarantinedOneTakesNoPlaceAmongThoseThatAreKept) {
  auto options = run_of(1, 1);
  options.controller.keep_last = 2;
  options.controller.verify_patience = 1000;
  options.total_steps = 40;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(15));
  run.feed(VerifyEnded{run.checkpoint_of(15)->id, false, "bad"});
  ASSERT_TRUE(run.train_to(20));
  EXPECT_NE(run.checkpoint_of(10), nullptr) << "the newest two that can be read are kept";
}

TEST(RunControllerRollback, LeavesTheBranchAndSkipsTheSamples) {
  auto options = run_of(2, 2);
  options.total_steps = 30;
  options.save_interval = 3;
  options.poisoned = {40, 48};  // steps 11 and 12
  options.controller.spikes.spikes.non_finite_patience = 2;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  while (run.state.rollbacks == 0) ASSERT_TRUE(run.train_to(run.state.counted_step + 1));
  // Onset 11, margin 2: steps up to 9 stay; the samples of steps 10 to 14 are skipped.
  EXPECT_EQ(run.state.branch, 1u);
  ASSERT_EQ(run.state.branches.size(), 2u);
  EXPECT_EQ(run.state.branches[1].parent, 0u);
  EXPECT_EQ(run.state.branches[1].step, 9);
  EXPECT_EQ(run.state.counted_step, 9);
  ASSERT_EQ(run.state.skip_windows.size(), 1u);
  EXPECT_EQ(run.state.skip_windows[0], (SkipWindow{36, 56}));
  run.run_until_training();
  EXPECT_EQ(run.plan().branch, 1u);
  EXPECT_EQ(run.plan().step, 9);
  EXPECT_EQ(kinds(run.plan()), std::vector<SourceKind>(4, SourceKind::kCheckpoint))
      << "what the ranks hold in memory is of the branch that was left";
  ASSERT_TRUE(run.train_to(10));
  EXPECT_EQ(run.state.spikes.history.back().position_begin, 56);
  run.run_to_end();
  EXPECT_EQ(run.violation(), "");
  EXPECT_EQ(run.state.exit_code, kExitDone);
  const CheckpointInfo* last = newest_checkpoint(run.state, 30);
  EXPECT_EQ(run.stored_weights(last->id, 3), run.expected_weights(3, 30));
}

TEST(RunControllerRollback, CheckpointsOfTheLeftBranchAreNeverResumed) {
  auto options = run_of(1, 1);
  options.total_steps = 30;
  options.save_interval = 1;
  options.controller.keep_last = 20;
  options.poisoned = {40, 48};
  options.controller.spikes.spikes.non_finite_patience = 2;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  while (run.state.rollbacks == 0) ASSERT_TRUE(run.train_to(run.state.counted_step + 1));
  run.run_until_training();
  ASSERT_TRUE(run.train_to(10));
  EXPECT_FALSE(on_ancestry(run.state, 0, 11));
  EXPECT_TRUE(on_ancestry(run.state, 0, 9));
  EXPECT_TRUE(on_ancestry(run.state, 1, 10));
  for (const CheckpointInfo& c : run.state.checkpoints) {
    EXPECT_TRUE(on_ancestry(run.state, c.branch, c.step)) << "left ones are deleted first";
  }
  ASSERT_TRUE(run.train_to(11));
  run.kill_worker(0);
  run.run_until_training();
  EXPECT_EQ(run.plan().checkpoint_branch, 1u);
}

TEST(Ancestry, EndsWhereEachBranchWasLeft) {
  RunState state;
  // 0 --100--> 1 --250--> 3; 2 left 1 at 200 and was left itself; 4 left 1 at 50, before 1 began.
  state.branches = {{0, 0, 0}, {1, 0, 100}, {2, 1, 200}, {3, 1, 250}, {4, 1, 50}};
  state.branch = 3;
  EXPECT_TRUE(on_ancestry(state, 3, 1000));
  EXPECT_TRUE(on_ancestry(state, 1, 250));
  EXPECT_FALSE(on_ancestry(state, 1, 251));
  EXPECT_TRUE(on_ancestry(state, 0, 100));
  EXPECT_FALSE(on_ancestry(state, 0, 101));
  EXPECT_FALSE(on_ancestry(state, 2, 150));
  EXPECT_FALSE(on_ancestry(state, 9, 1));
  state.branch = 4;
  EXPECT_TRUE(on_ancestry(state, 0, 50));
  EXPECT_FALSE(on_ancestry(state, 0, 51)) << "what 0 did from 51 to 100 is left too";
}

TEST(RunControllerEnd, AStopInAnyPhaseEndsAfterACheckpointAndResumes) {
  for (int moment = 0; moment < 6; ++moment) {
    ControlledRun run(run_of(2, 1));
    const StopRequested stop{StopKind::kGraceful, "test"};
    run.start();
    if (moment == 0) run.feed(stop);  // before the first agent has joined
    run.run_until_training();
    if (moment == 1) run.feed(stop);
    if (moment >= 2) {
      ASSERT_TRUE(run.train_to(3));
    }
    if (moment == 2) run.feed(stop);
    if (moment == 3) {
      run.kill_worker(0);
      run.deliver_from_agent(0);
      run.feed(stop);  // while gathering
    }
    if (moment == 4) {
      run.kill_worker(0);
      const std::size_t plans = run.num_plans();
      while (run.num_plans() == plans) {
        run.deliver_to_agent(0) || run.deliver_from_agent(0) || run.boot(0) ||
            run.deliver_from_worker(0) || run.deliver_from_worker(1) || run.fire_timer();
      }
      run.feed(stop);  // while forming
    }
    if (moment == 5) {
      run.run_to_end();
      run.feed(stop);  // after the end
    }
    run.run_to_end();
    EXPECT_EQ(run.violation(), "") << "moment " << moment;
    EXPECT_EQ(run.state.exit_code, moment == 5 ? kExitDone : kExitStopped) << "moment " << moment;
    EXPECT_NE(run.checkpoint_of(run.state.counted_step), nullptr) << "moment " << moment;
    if (moment == 5) continue;
    EXPECT_LT(run.state.counted_step, 10) << "moment " << moment;
    run.crash_supervisor();
    run.restart_supervisor();
    run.run_to_end();
    EXPECT_EQ(run.violation(), "") << "moment " << moment;
    EXPECT_EQ(run.state.exit_code, kExitDone) << "moment " << moment;
  }
}

TEST(RunControllerEnd, PreemptionHasTheRequeueCode) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  run.feed(StopRequested{StopKind::kPreempt, "signal 15"});
  run.run_to_end();
  EXPECT_EQ(run.state.exit_code, kExitRequeue);
}

TEST(RunControllerEnd, ASecondStopChangesNothing) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  run.feed(StopRequested{StopKind::kGraceful, "test"});
  EXPECT_TRUE(run.feed(StopRequested{StopKind::kPreempt, "test"}).empty());
  run.run_to_end();
  EXPECT_EQ(run.state.exit_code, kExitStopped);
  EXPECT_EQ(run.all<IssueCommand>().size(), 1u);
}

TEST(RunControllerEnd, AFinishedRunWithMoreStepsGoesOn) {
  auto options = run_of(1, 1);
  options.total_steps = 10;
  ControlledRun run(options);
  run.start();
  run.run_to_end();
  ASSERT_EQ(run.state.exit_code, kExitDone);
  RunState state = run.state;
  const auto commands =
      run.controller().decide(state, SupervisorStarted{2, 15, {}, run.manifests(), {}}, run.now());
  EXPECT_EQ(state.total_steps, 15);
  EXPECT_EQ(state.phase, Phase::kGathering);
}

}  // namespace
}  // namespace tenax::scheduler
