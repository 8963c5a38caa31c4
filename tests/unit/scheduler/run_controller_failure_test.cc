// What the run controller does when workers and agents fail between and within steps.
#include <gtest/gtest.h>

#include <cmath>

#include "scheduler/exit_code.h"
#include "scheduler/recovery_plan.h"
#include "scheduler/run_json.h"
#include "tests/unit/scheduler/run_controller_cases.h"

namespace tenax::scheduler {
namespace {

using enum SourceKind;
using test::ControlledRun;

/// Time passes until the run has a plan again.
void recover(ControlledRun& run) {
  const std::size_t before = run.num_plans();
  for (int i = 0; i < 20 && run.num_plans() == before; ++i) {
    run.settle();
    if (run.num_plans() == before) run.fire_timer();
  }
  ASSERT_GT(run.num_plans(), before);
}

TEST(RunController, StartsAgentsThenWorkersThenFromTheInitialWeights) {
  ControlledRun run(run_of(2, 2, 2));
  run.start();
  EXPECT_EQ(run.all<SpawnAgent>().size(), 2u);
  EXPECT_TRUE(run.all<SpawnWorker>().empty());
  run.settle();
  EXPECT_EQ(run.all<SpawnWorker>().size(), 4u);
  EXPECT_EQ(run.state.phase, Phase::kRunning);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kInitial, kInitial, kInitial, kInitial}));
  EXPECT_EQ(run.plan().step, 0);
  expect_a_clean_end(run);
}

TEST(RunController, RanksFillTheAgentsInBlocks) {
  ControlledRun run(run_of(3, 2, 2));
  run.start();
  std::vector<std::pair<std::uint32_t, std::uint32_t>> places;
  for (const Seat& s : run.state.seats) places.emplace_back(s.agent, s.slot);
  EXPECT_EQ(places, (std::vector<std::pair<std::uint32_t, std::uint32_t>>{
                        {0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}}));
}

TEST(RunController, ADeadWorkerIsReplacedAndFedByItsDataParallelPeer) {
  ControlledRun run(run_of(2, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  const std::uint64_t generation = run.state.generation;
  run.kill_worker(2);
  ASSERT_TRUE(run.deliver_from_agent(0));
  EXPECT_EQ(run.state.generation, generation + 1);
  EXPECT_EQ(run.all<AbortGeneration>().back().generation, generation + 1);
  EXPECT_EQ(run.state.phase, Phase::kGathering);
  recover(run);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory, kMemory, kPeer, kMemory}));
  EXPECT_EQ(run.plan().sources[2].peer, 3);
  EXPECT_EQ(run.plan().step, 3);
  expect_a_clean_end(run);
}

DeviceReported report_of(const Seat& seat, DeviceTrouble trouble, bool ends) {
  return {seat.agent, seat.slot, seat.incarnation, trouble, "GPU 0 (X): what it says", ends};
}

TEST(RunController, AGpuThatIsLostIsNamedBeforeItsWorkerIsGone) {
  ControlledRun run(run_of(2, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  const std::uint64_t generation = run.state.generation;
  run.feed(report_of(run.state.seats[2], DeviceTrouble::kFault, true));
  EXPECT_EQ(run.state.generation, generation + 1);
  EXPECT_TRUE(run.noted("GPU of rank 2 (agent 0, slot 2): fault: GPU 0 (X): what it says"));
  EXPECT_EQ(run.state.culprit, "rank 2 lost its GPU: GPU 0 (X): what it says");
  run.kill_worker(2);
  recover(run);
  EXPECT_EQ(run.state.culprit, "rank 2 lost its GPU: GPU 0 (X): what it says");
  EXPECT_EQ(run.plan().sources[2].kind, kPeer);
  EXPECT_EQ(run.state.seats[2].device_trouble, "fault: GPU 0 (X): what it says");
  EXPECT_EQ(run.state.device_troubles, 1);
  expect_a_clean_end(run);
}

TEST(RunController, AGpuInBadHealthIsNotedAndTrainsOn) {
  ControlledRun run(run_of(2, 2));
  run.start();
  run.run_until_training();
  const std::uint64_t generation = run.state.generation;
  run.feed(report_of(run.state.seats[1], DeviceTrouble::kHealth, false));
  EXPECT_EQ(run.state.generation, generation);
  EXPECT_TRUE(run.noted("GPU of rank 1 (agent 0, slot 1): health: GPU 0 (X): what it says"));
  DeviceReported old = report_of(run.state.seats[1], DeviceTrouble::kFault, true);
  --old.incarnation;  // G2
  run.feed(old);
  EXPECT_EQ(run.state.generation, generation);
  EXPECT_EQ(run.state.device_troubles, 1);
  expect_a_clean_end(run);
}

TEST(RunController, WithAShardedOptimizerALostRankSendsAllBackToTheCheckpoint) {
  test::ControlledRunOptions options = run_of(3, 1);
  options.controller.zero = 1;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  run.kill_worker(1);
  ASSERT_TRUE(run.deliver_from_agent(0));
  recover(run);
  const CheckpointInfo* checkpoint = newest_checkpoint(run.state, run.state.counted_step);
  const SourceKind source = checkpoint != nullptr ? kCheckpoint : kInitial;
  EXPECT_EQ(kinds(run.plan()), (std::vector{source, source, source}));
  EXPECT_EQ(run.plan().step, checkpoint != nullptr ? checkpoint->step : 0);
  expect_a_clean_end(run);
}

TEST(RunController, WithAShardedOptimizerSurvivorsWithoutALossGoOnFromMemory) {
  test::ControlledRunOptions options = run_of(3, 1);
  options.controller.zero = 1;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(4));
  ASSERT_TRUE(run.train_to_gradients_of(5));
  ASSERT_TRUE(run.advance(1));  // its update is made, the others only hold their gradients
  ASSERT_TRUE(run.stop_on_error(1));
  run.settle();
  recover(run);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory, kMemory, kMemory}));
  EXPECT_EQ(run.plan().step, 5);
  EXPECT_TRUE(run.plan().has_half_step);
  expect_a_clean_end(run);
}

TEST(CostOfALostRank, SaysWhatTheLayoutCanAndCannotReplace) {
  ControllerOptions o;
  o.checkpoint_interval = 20;
  EXPECT_EQ(cost_of_a_lost_rank(o),
            "a lost rank's state has no second copy (one replica): the run goes back to the newest "
            "checkpoint (one every 20 steps) and replays the steps since");
  o.degrees.dp = 2;
  EXPECT_EQ(cost_of_a_lost_rank(o),
            "a lost rank's state comes from a data-parallel peer, no step is repeated");
  o.zero = 1;
  EXPECT_EQ(cost_of_a_lost_rank(o),
            "a lost rank's share of the optimizer state has no second copy (ZeRO-1): the run goes "
            "back to the newest checkpoint (one every 20 steps) and replays the steps since");
  o.checkpoint_interval = 0;
  EXPECT_EQ(
      cost_of_a_lost_rank(o),
      "a lost rank's share of the optimizer state has no second copy (ZeRO-1): the run starts "
      "again, since checkpoint.interval is 0");
}

TEST(RunController, WaitsForSimultaneousFaultsBeforeReplanning) {
  ControlledRun run(run_of(3, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  const std::size_t plans = run.num_plans();
  run.kill_worker(0);
  run.settle();  // all answer, the replacement is up: only the window is open
  EXPECT_EQ(run.num_plans(), plans);
  run.kill_worker(1);
  run.settle();
  EXPECT_EQ(run.num_plans(), plans);
  recover(run);
  EXPECT_EQ(run.num_plans(), plans + 1) << "one plan for both";
  EXPECT_EQ(kinds(run.plan()), (std::vector{kPeer, kPeer, kMemory}));
  expect_a_clean_end(run);
}

TEST(RunController, AVerdictKnownToOneSurvivorFinishesTheHalfDoneStep) {
  ControlledRun run(run_of(3, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(4));
  ASSERT_TRUE(run.train_to_gradients_of(5));
  ASSERT_TRUE(run.advance(1));  // its report is on the way and never arrives
  run.kill_worker(2);
  run.deliver_from_agent(0);
  ASSERT_EQ(run.state.counted_step, 4);
  recover(run);
  EXPECT_EQ(run.state.counted_step, 5);
  EXPECT_TRUE(run.plan().has_half_step);
  EXPECT_EQ(run.plan().half_step.step, 5);
  EXPECT_EQ(run.plan().step, 5);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory, kMemory, kPeer}));
  expect_a_clean_end(run);
}

TEST(RunController, AVerdictThatOnlyTheJournalKnowsFinishesTheHalfDoneStep) {
  ControlledRun run(run_of(3, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(4));
  ASSERT_TRUE(run.train_to_gradients_of(5));
  ASSERT_TRUE(run.advance(1));
  ASSERT_TRUE(run.deliver_from_worker(1));
  ASSERT_EQ(run.state.counted_step, 5);
  run.kill_worker(1);
  recover(run);
  EXPECT_TRUE(run.plan().has_half_step);
  EXPECT_EQ(run.plan().step, 5);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory, kPeer, kMemory}));
  expect_a_clean_end(run);
}

TEST(RunController, AStepWhoseVerdictNobodyKnowsIsRedone) {
  ControlledRun run(run_of(3, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(4));
  ASSERT_TRUE(run.train_to_gradients_of(5));
  ASSERT_TRUE(run.advance(1));
  run.kill_worker(1);  // and its verdict with it
  recover(run);
  EXPECT_FALSE(run.plan().has_half_step);
  EXPECT_EQ(run.plan().step, 4);
  EXPECT_EQ(run.state.counted_step, 4);
  expect_a_clean_end(run);
}

TEST(RunController, AReportThatWasAppliedButLostIsCountedFromTheSurvivors) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  ASSERT_TRUE(run.train_to_gradients_of(4));
  ASSERT_TRUE(run.advance(0));
  ASSERT_TRUE(run.advance(1));
  run.kill_worker(0);  // the report of step 4 was in its queue
  run.deliver_from_agent(0);
  ASSERT_EQ(run.state.counted_step, 3);
  recover(run);
  EXPECT_EQ(run.state.counted_step, 4);
  EXPECT_EQ(run.plan().step, 4);
  expect_a_clean_end(run);
}

TEST(RunController, ReportsWithAGapAreNotCountedUntilTheGapIsFilled) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(2));
  StepReport report = run.state.spikes.history.back();
  report.step = 4;
  run.feed(StepReported{run.state.generation, report});
  EXPECT_EQ(run.state.counted_step, 2);
  EXPECT_TRUE(run.noted("report of step 4 came after that of step 2"));
  expect_a_clean_end(run);
}

TEST(RunController, AllReplicasOfAStageDeadGoesBackToTheNewestCheckpoint) {
  ControlledRun run(run_of(2, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  ASSERT_NE(run.checkpoint_of(5), nullptr);
  run.kill_worker(2);
  run.kill_worker(3);
  recover(run);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kCheckpoint, kCheckpoint, kCheckpoint, kCheckpoint}));
  EXPECT_EQ(run.plan().step, 5);
  EXPECT_EQ(run.state.counted_step, 7);
  ASSERT_TRUE(run.train_to(7));
  EXPECT_EQ(run.state.spikes.history.size(), 7u) << "replayed steps are not counted twice";
  EXPECT_FALSE(run.noted("differs"));
  expect_a_clean_end(run);
}

TEST(RunController, AReplayWithOtherNumbersIsReported) {
  ControlledRun run(run_of(1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  StepReport report = run.state.spikes.history.at(5);
  report.seconds += 1;
  run.feed(StepReported{run.state.generation, report});
  EXPECT_FALSE(run.noted("replayed step 6 differs")) << "timings are not compared";
  report.loss = std::nextafter(report.loss, 10.0);
  run.feed(StepReported{run.state.generation, report});
  EXPECT_TRUE(run.noted("replayed step 6 differs"));
}

TEST(RunController, WithoutACheckpointItStartsAgainFromTheSeed) {
  auto options = run_of(1, 2);
  options.save_interval = 0;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(4));
  run.kill_worker(0);
  recover(run);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kInitial, kInitial}));
  EXPECT_EQ(run.plan().step, 0);
  expect_a_clean_end(run);
}

TEST(RunController, ADeadAgentIsReplacedTogetherWithItsWorkers) {
  ControlledRun run(run_of(2, 1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  run.kill_agent(1);
  recover(run);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory, kPeer}));
  EXPECT_EQ(run.state.agents[1].restarts, 1);
  expect_a_clean_end(run);
}

TEST(RunController, AGenerationThatDoesNotFormInTimeIsLeft) {
  ControlledRun run(run_of(2, 1));
  run.start();
  while (run.num_plans() == 0) {
    run.deliver_to_agent(0) || run.deliver_from_agent(0) || run.boot(0) || run.boot(1) ||
        run.deliver_from_worker(0) || run.deliver_from_worker(1);
  }
  ASSERT_EQ(run.state.phase, Phase::kForming);
  const Time before = run.now();
  ASSERT_TRUE(run.fire_timer());
  EXPECT_EQ(run.now() - before, run.controller().options().form_timeout);
  EXPECT_EQ(run.state.phase, Phase::kGathering);
  expect_a_clean_end(run);
}

TEST(RunController, AnythingOfAnOlderGenerationIncarnationOrRankChangesNothing) {
  ControlledRun run(run_of(2, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.stop_on_error(0);
  run.run_until_training();
  const std::uint64_t old = run.state.generation - 1;
  const StepReport report = run.state.spikes.history.back();
  StepReport next = report;
  next.step = 7;
  const RankState held;
  const std::string before = to_json(run.state);
  const std::vector<Event> stale = {
      RankFormed{0, old, 6, "", 0},
      RankStopped{0, old, held, "late", 0},
      RankStopped{99, run.state.generation, held, "nobody", 0},
      RankFinished{0, old, 6, FinishCause::kDone},
      RankFinished{99, run.state.generation, 6, FinishCause::kDone},
      StepReported{old, next},
      ShardWritten{0, old, 0, 6, 77, 1, 1, "x"},
      ShardWritten{99, run.state.generation, 0, 6, 77, 1, 1, "x"},
      ShardFailed{0, old, 0, 6, 77, "late"},
      CommitEnded{12345, true, "", 1},
      CommitEnded{12345, false, "late", 1},
      VerifyEnded{12345, false, "late"},
      WorkerUp{0, 0, 1, 1},
      WorkerExited{0, 0, 1, "late"},
      WorkerExited{0, 99, run.state.seats[0].incarnation, "nobody"},
      AgentLost{0, 99, "late"},
      AgentLost{99, 1, "nobody"},
      AgentJoined{0, 99, 1, "elsewhere", 1, {}},
      AgentJoined{0, run.state.agents[0].incarnation, 1, "again", 1, {}},
      TimerFired{}};
  for (const Event& event : stale) {
    EXPECT_TRUE(run.feed(event).empty()) << name_of(event);
    EXPECT_EQ(to_json(run.state), before) << name_of(event);
  }
  next.branch = 3;
  run.feed(StepReported{run.state.generation, next});
  EXPECT_EQ(to_json(run.state), before) << "a report of another branch";
}

TEST(RunController, GivesUpWhenWorkersDieOftenerThanTheStrategyAllows) {
  auto options = run_of(2, 1);
  options.controller.worker_restarts.intensity = 2;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(run.state.phase, Phase::kFinished);
    run.kill_worker(0);
    run.run_until_training();
  }
  EXPECT_EQ(run.state.exit_code, kExitGaveUp);
  EXPECT_EQ(run.all<Finish>().size(), 1u);
}

TEST(RunController, DeathsFurtherApartThanThePeriodAreAllowedForEver) {
  auto options = run_of(2, 1);
  options.controller.worker_restarts.intensity = 2;
  options.total_steps = 40;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(run.train_to(2 * i + 2));
    run.kill_worker(0);
    run.run_until_training();
    run.pass(options.controller.worker_restarts.period);
    run.feed(StepReported{run.state.generation, run.state.spikes.history.back()});
  }
  expect_a_clean_end(run);
}

TEST(RunController, RestartsAreHeldBackByTheBackoff) {
  auto options = run_of(1, 1);
  options.controller.worker_restarts.backoff = std::chrono::milliseconds(300);
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  run.kill_worker(0);
  run.run_until_training();
  run.kill_worker(0);
  run.settle();
  EXPECT_EQ(run.state.seats[0].state, SeatState::kAbsent);
  EXPECT_EQ(run.state.seats[0].spawn_at, run.now() + std::chrono::milliseconds(300));
  expect_a_clean_end(run);
}

TEST(RunController, GivesUpWhenGenerationsBringNoStep) {
  auto options = run_of(2, 1);
  options.controller.max_generations_without_progress = 4;
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(2));
  int left = 0;
  while (run.state.phase != Phase::kFinished) {
    ASSERT_LT(++left, 10);
    run.stop_on_error(1);
    run.run_until_training();
  }
  EXPECT_EQ(left, 5);
  EXPECT_EQ(run.state.exit_code, kExitGaveUp);
  EXPECT_NE(run.state.finish_reason.find("connection closed by peer"), std::string::npos)
      << run.state.finish_reason;
}

TEST(RunController, AnAgentThatNeverJoinsIsReplaced) {
  ControlledRun run(run_of(1, 1));
  run.start();
  const std::uint64_t first = run.state.agents[0].incarnation;
  ASSERT_TRUE(run.fire_timer());
  EXPECT_NE(run.state.agents[0].incarnation, first);
  expect_a_clean_end(run);
}

TEST(RunController, ASpikeVerdictOnAReportFoundAfterAFailureEndsTheRunOnce) {
  // The third non-finite loss asks for a rollback, no rollback is left: the run must not be planned
  // again after its end.
  auto options = run_of(2, 1);
  options.controller.spikes.spikes.max_rollbacks = 0;
  options.poisoned = {12, 40};  // steps 4 to 10
  ControlledRun run(options);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(5));
  ASSERT_TRUE(run.train_to_gradients_of(6));
  ASSERT_TRUE(run.advance(0));
  ASSERT_TRUE(run.advance(1));
  run.kill_worker(0);
  const std::size_t plans = run.num_plans();
  run.run_until_training();
  EXPECT_EQ(run.state.exit_code, kExitDiverged);
  EXPECT_EQ(run.state.phase, Phase::kFinished);
  EXPECT_EQ(run.num_plans(), plans);
}

}  // namespace
}  // namespace tenax::scheduler
