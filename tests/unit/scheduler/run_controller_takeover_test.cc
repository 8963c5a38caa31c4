// A supervisor dies and another one takes over from the state it saved.
#include <gtest/gtest.h>

#include "scheduler/exit_code.h"
#include "tests/unit/scheduler/run_controller_cases.h"

namespace tenax::scheduler {
namespace {

using test::ControlledRun;

void expect_the_end(ControlledRun& run) {
  run.run_to_end();
  EXPECT_EQ(run.violation(), "") << run.notes();
  EXPECT_EQ(run.state.exit_code, kExitDone) << run.state.finish_reason;
}

TEST(RunControllerTakeover, WorkersInTrainingGoOnUndisturbed) {
  ControlledRun run(run_of(2, 1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  run.crash_supervisor();
  ASSERT_TRUE(run.train_to(6)) << "they need no supervisor";
  EXPECT_EQ(run.state.counted_step, 3);
  const std::uint64_t generation = run.state.generation;
  run.restart_supervisor();
  run.settle();
  EXPECT_EQ(run.state.generation, generation);
  EXPECT_EQ(run.state.counted_step, 6) << "the agents sent the reports again";
  EXPECT_TRUE(run.noted("nothing to do"));
  expect_the_end(run);
}

TEST(RunControllerTakeover, WithoutAgentsTheNewestCheckpointIsTaken) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.crash_supervisor();
  run.kill_agent(0);
  run.restart_supervisor();
  run.run_until_training();
  EXPECT_EQ(run.plan().step, 5);
  expect_the_end(run);
}

TEST(RunControllerTakeover, WorkersOfADeadAgentAreFedByThoseOfALiveOne) {
  ControlledRun run(run_of(2, 1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.crash_supervisor();
  run.kill_agent(0);
  run.restart_supervisor();
  run.run_until_training();
  EXPECT_EQ(kinds(run.plan()), (std::vector{SourceKind::kPeer, SourceKind::kMemory}));
  expect_the_end(run);
}

TEST(RunControllerTakeover,
     AnAgentThatDiesBeforeItAnswersIsReplacedAndTheOthersAreLeftTimeToAnswer) {
  ControlledRun run(run_of(2, 1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.crash_supervisor();
  run.restart_supervisor();
  run.kill_agent(0);
  while (run.num_plans() == 1) {
    run.settle();
    ASSERT_TRUE(run.fire_timer());
  }
  EXPECT_TRUE(run.all<KillWorker>().empty());
  EXPECT_EQ(kinds(run.plan()), (std::vector{SourceKind::kPeer, SourceKind::kMemory}));
  expect_the_end(run);
}

TEST(RunControllerTakeover, AnAgentOfAnotherIncarnationIsNotTaken) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  RunState state = run.state;
  static_cast<void>(
      run.controller().decide(state, SupervisorStarted{2, 20, {}, {}, {0}}, run.now()));
  const AgentJoined stranger{0, state.agents[0].incarnation + 7, 1, "host", 1, {}};
  EXPECT_TRUE(run.controller().decide(state, stranger, run.now()).empty());
  EXPECT_FALSE(state.agents[0].up);
}

TEST(RunControllerTakeover, AWorkerThatLeftMeanwhileBeginsANewGeneration) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.crash_supervisor();
  run.stop_on_error(1);
  run.restart_supervisor();
  run.run_until_training();
  EXPECT_EQ(kinds(run.plan()), (std::vector{SourceKind::kMemory, SourceKind::kMemory}));
  expect_the_end(run);
}

TEST(RunControllerTakeover, ACommitThatReachedTheStoreIsKept) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(5));
  const std::uint64_t id = run.checkpoint_of(5)->id;
  run.state.checkpoints[0].committed = false;
  run.state.checkpoints[0].committing = true;  // the answer was lost with the supervisor
  run.crash_supervisor();
  run.restart_supervisor();
  ASSERT_NE(run.checkpoint_of(5), nullptr);
  EXPECT_TRUE(run.checkpoint_of(5)->committed);
  EXPECT_EQ(run.checkpoint_of(5)->id, id);
  expect_the_end(run);
}

TEST(RunControllerTakeover, ACommitWithoutAManifestIsGivenUp) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to_gradients_of(5));
  ASSERT_TRUE(run.advance(0));
  run.write_slot(0);
  while (run.deliver_from_worker(0) || run.deliver_from_agent(0)) {
  }
  ASSERT_NE(run.checkpoint_of(5), nullptr);
  ASSERT_TRUE(run.checkpoint_of(5)->committing);
  run.crash_supervisor();
  run.restart_supervisor();
  EXPECT_EQ(run.checkpoint_of(5), nullptr);
  expect_the_end(run);
}

TEST(RunControllerTakeover, AManifestThatTheStateDoesNotKnowIsDeletedAndAMissingOneReported) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(5));
  RunState state = run.state;
  const auto commands =
      run.controller().decide(state, SupervisorStarted{2, 20, {}, {4711}, {0}}, run.now());
  EXPECT_TRUE(state.checkpoints.empty());
  int deleted = 0;
  bool missing = false;
  for (const Command& c : commands) {
    if (const auto* d = std::get_if<DeleteCheckpoint>(&c)) deleted += d->checkpoint_id == 4711;
    if (const auto* n = std::get_if<Note>(&c))
      missing = missing || n->text.find("missing from the store") != std::string::npos;
  }
  EXPECT_EQ(deleted, 1);
  EXPECT_TRUE(missing);
}

TEST(RunControllerTakeover, AStopThatTheOldSupervisorDecidedButNeverSentLosesNothing) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  run.feed_and_forget(StopRequested{StopKind::kGraceful, "test"});
  run.crash_supervisor();
  run.restart_supervisor();
  run.run_until_training();
  EXPECT_EQ(run.state.next_command, 1);
  run.feed(StopRequested{StopKind::kGraceful, "test"});
  run.run_to_end();
  EXPECT_EQ(run.state.exit_code, kExitStopped) << "the second stop reaches the workers";
  EXPECT_LT(run.state.counted_step, 10);
}

TEST(RunControllerTakeover, AStopThatComesBeforeTheAgentsAnswerIsNotLost) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  run.crash_supervisor();
  run.restart_supervisor();
  run.feed(StopRequested{StopKind::kGraceful, "test"});
  run.run_to_end();
  EXPECT_EQ(run.violation(), "");
  EXPECT_EQ(run.state.exit_code, kExitStopped);
  EXPECT_LT(run.state.counted_step, 10);
}

TEST(RunControllerTakeover, APlanThatWasDecidedButNeverSentIsMadeAgain) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.kill_worker(1);
  run.settle();
  run.pass(std::chrono::seconds(1));
  run.feed_and_forget(TimerFired{});
  ASSERT_EQ(run.state.phase, Phase::kForming);
  run.crash_supervisor();
  run.restart_supervisor();
  run.run_until_training();
  EXPECT_EQ(kinds(run.plan()), (std::vector{SourceKind::kMemory, SourceKind::kPeer}));
  expect_the_end(run);
}

TEST(RunControllerTakeover, AWorkerThatIsStillStartingGetsItsPlanWhenItIsUp) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.kill_worker(1);
  while (run.deliver_from_worker(0) || run.deliver_from_agent(0) || run.deliver_to_agent(0)) {
  }
  ASSERT_TRUE(run.alive(1)) << "its successor was started and has not spoken yet";
  run.crash_supervisor();
  run.restart_supervisor();
  while (run.deliver_from_worker(0) || run.deliver_from_agent(0) || run.deliver_to_agent(0)) {
  }
  run.pass(run.controller().options().collect_window);
  run.feed(TimerFired{});
  while (run.deliver_to_agent(0)) {
  }
  ASSERT_TRUE(run.boot(1));
  run.run_until_training();
  EXPECT_FALSE(run.noted("forming the generation took too long")) << run.notes();
  expect_the_end(run);
}

}  // namespace
}  // namespace tenax::scheduler
