// Fewer and more workers: exclusion, spares, drain, scale, agents that join. T2 and T3: whatever
// the layout, the samples of a step and the weights at the end are the same.
#include <gtest/gtest.h>

#include "scheduler/exit_code.h"
#include "scheduler/run_decision_elastic.h"
#include "tests/unit/scheduler/run_controller_cases.h"

namespace tenax::scheduler {
namespace {

using enum SourceKind;
using test::ControlledRun;

test::ControlledRunOptions fragile(int dp, int pp, int agents) {
  test::ControlledRunOptions o = run_of(dp, pp, agents);
  o.controller.agent_restarts.intensity = 0;
  o.controller.worker_restarts.intensity = 0;
  o.controller.limits.max_data_parallel = 8;
  o.controller.limits.max_stages = 4;
  o.controller.hang_timeout = std::chrono::hours(1);  // minutes pass in these tests
  o.controller.watch.factor = 0;
  return o;
}

void until_a_plan(ControlledRun& run) {
  const std::size_t before = run.num_plans();
  for (int i = 0; i < 20 && run.num_plans() == before; ++i) {
    run.settle();
    if (run.num_plans() == before) run.fire_timer();
  }
  ASSERT_GT(run.num_plans(), before) << run.notes();
}

/// Until a generation with so many replicas trains.
void train_until(ControlledRun& run, int dp) {
  for (int i = 0; i < 1000 && run.plan().degrees.dp != dp; ++i) {
    run.settle();
    for (int seat = 0; seat < run.num_seats(); ++seat) run.advance(seat);
    if (run.state.phase == Phase::kGathering) run.fire_timer();
  }
  EXPECT_EQ(run.plan().degrees.dp, dp) << run.notes();
  run.run_until_training();
}

void expect_the_same_end(ControlledRun& run) {
  run.run_to_end();
  EXPECT_EQ(run.violation(), "") << run.notes();
  ASSERT_EQ(run.state.exit_code, kExitDone) << run.state.finish_reason;
  const CheckpointInfo* last = newest_checkpoint(run.state, run.state.total_steps);
  ASSERT_NE(last, nullptr);
  ASSERT_EQ(last->step, run.state.total_steps);
  for (int rank = 0; rank < run.world(); ++rank)
    EXPECT_EQ(run.stored_weights(last->id, rank), run.expected_weights(rank, last->step));
}

TEST(ElasticRun, AnAgentThatMayNotBeRestartedTakesAReplicaWithIt) {
  ControlledRun run(fragile(3, 1, 3));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.kill_agent(1);
  until_a_plan(run);
  EXPECT_EQ(run.plan().degrees, (Degrees{2, 1, 1}));
  EXPECT_EQ(run.plan().step, 7) << "nothing moves: the survivors have the weights";
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory, kMemory}));
  EXPECT_TRUE(run.noted("agent 1 is excluded for 600 s")) << run.notes();
  expect_the_same_end(run);
}

TEST(ElasticRun, AHalfDoneStepIsFinishedInTheSmallerLayout) {
  ControlledRun run(fragile(3, 1, 3));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to_gradients_of(8));
  ASSERT_TRUE(run.advance(0)) << "one rank applies the step, the others only have its gradients";
  run.kill_agent(1);
  until_a_plan(run);
  EXPECT_EQ(run.plan().step, 8);
  EXPECT_TRUE(run.plan().has_half_step);
  expect_the_same_end(run);
}

TEST(ElasticRun, AStageWithoutAWorkerIsMergedFromTheNewestCheckpoint) {
  ControlledRun run(fragile(1, 2, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(8));
  run.kill_agent(0);
  until_a_plan(run);
  EXPECT_EQ(run.plan().degrees, (Degrees{1, 1, 1}));
  EXPECT_EQ(run.plan().step, 5);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kCheckpoint}));
  expect_the_same_end(run);
}

TEST(ElasticRun, AStageIsRefilledFromAnotherReplica) {
  // Agent 0 has both replicas of stage 0, agent 1 those of stage 1.
  ControlledRun run(fragile(2, 2, 4));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(8));
  run.kill_agent(0);
  run.kill_agent(3);
  until_a_plan(run);
  EXPECT_EQ(run.plan().degrees, (Degrees{1, 1, 2}));
  EXPECT_EQ(run.plan().step, 8) << "each stage has a survivor";
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory, kMemory}));
  expect_the_same_end(run);
}

TEST(ElasticRun, GrowsAgainAtABoundaryWhenTheExclusionIsOver) {
  test::ControlledRunOptions o = fragile(2, 1, 2);
  o.total_steps = 40;
  ControlledRun run(o);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  run.kill_agent(0);
  until_a_plan(run);
  EXPECT_EQ(run.plan().degrees, (Degrees{1, 1, 1}));
  ASSERT_TRUE(run.train_to(9));
  run.pass(std::chrono::minutes(10));
  run.feed(TimerFired{});
  EXPECT_TRUE(run.noted("the exclusion of agent 0 is over"));
  run.settle();
  EXPECT_TRUE(run.noted("dp 2 x pp 1 instead of dp 1 x pp 1 after this step")) << run.notes();
  train_until(run, 2);
  EXPECT_EQ(run.plan().step, 10) << "the step that was being trained";
  EXPECT_EQ(kinds(run.plan()).size(), 2u);
  EXPECT_EQ(std::count_if(run.plan().sources.begin(), run.plan().sources.end(),
                          [](const RankSource& s) { return s.kind == kPeer; }),
            1);
  expect_the_same_end(run);
  EXPECT_EQ(run.state.degrees, (Degrees{2, 1, 1}));
}

TEST(ElasticRun, EachExclusionIsTwiceAsLong) {
  test::ControlledRunOptions o = fragile(2, 1, 2);
  o.total_steps = 60;
  ControlledRun run(o);
  run.start();
  run.run_until_training();
  for (int times = 1; times <= 2; ++times) {
    run.kill_agent(0);
    until_a_plan(run);
    ASSERT_TRUE(run.state.agents[0].excluded_until);
    EXPECT_GE(*run.state.agents[0].excluded_until - run.now(), times * std::chrono::minutes(9));
    run.pass(times * std::chrono::minutes(10));
    run.feed(TimerFired{});
    run.run_until_training();
  }
  expect_the_same_end(run);
}

TEST(ElasticRun, GivesUpWhenNoLayoutIsLeft) {
  test::ControlledRunOptions o = fragile(2, 1, 2);
  o.controller.limits.min_workers = 2;
  ControlledRun run(o);
  run.start();
  run.run_until_training();
  run.kill_agent(0);
  run.settle();
  EXPECT_EQ(run.state.exit_code, kExitGaveUp);
  EXPECT_NE(run.state.finish_reason.find("the restart strategy allows 0"), std::string::npos);
}

TEST(ElasticRun, AWarmSpareTakesADeadWorkersRankWithoutWaitingForItsSuccessor) {
  test::ControlledRunOptions o = run_of(2, 1);
  o.controller.spares = 1;
  ControlledRun run(o);
  run.start();
  run.run_until_training();
  ASSERT_EQ(run.num_seats(), 3);
  ASSERT_TRUE(run.train_to(3));
  run.kill_worker(0);
  ASSERT_TRUE(run.deliver_from_agent(0));
  for (int i = 0; i < 10 && run.state.phase == Phase::kGathering; ++i) {
    while (run.deliver_to_agent(0)) {
    }
    for (int seat = 1; seat < 3; ++seat) run.deliver_from_worker(seat);
    if (run.state.phase == Phase::kGathering) run.fire_timer();
  }
  EXPECT_EQ(run.state.phase, Phase::kForming) << "seat 0 has no worker yet";
  EXPECT_EQ(run.state.seats[2].rank, 0);
  EXPECT_EQ(run.state.seats[0].rank, -1);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kPeer, kMemory}));
  expect_the_same_end(run);
}

TEST(ElasticRun, TheDeathOfASpareDisturbsNobody) {
  test::ControlledRunOptions o = run_of(2, 1);
  o.controller.spares = 1;
  ControlledRun run(o);
  run.start();
  run.run_until_training();
  const std::uint64_t generation = run.state.generation;
  run.kill_worker(2);
  run.settle();
  EXPECT_EQ(run.state.generation, generation);
  EXPECT_EQ(run.state.phase, Phase::kRunning);
  EXPECT_EQ(run.state.seats[2].state, SeatState::kFresh) << "there is a new one";
  expect_the_same_end(run);
}

TEST(ElasticRun, ADrainedAgentLeavesAtABoundaryAndNothingIsReplayed) {
  ControlledRun run(fragile(2, 1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.feed(DrainRequested{1, "the operator"});
  run.run_to_end();
  EXPECT_TRUE(run.noted("agent 1 is drained"));
  EXPECT_TRUE(run.noted("agent 1 has left"));
  EXPECT_FALSE(run.noted("replay"));
  EXPECT_EQ(run.num_plans(), 2u);
  EXPECT_EQ(run.plan().step, 7);
  EXPECT_EQ(kinds(run.plan()), (std::vector{kMemory}));
  expect_the_same_end(run);
}

TEST(ElasticRun, ADrainThatTakesAStageSavesItFirst) {
  ControlledRun run(fragile(1, 2, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.feed(DrainRequested{1, "the operator"});
  run.run_to_end();
  EXPECT_EQ(run.plan().degrees, (Degrees{1, 1, 1}));
  EXPECT_EQ(run.plan().step, 7) << "a checkpoint of the boundary: nothing is replayed";
  EXPECT_EQ(kinds(run.plan()), (std::vector{kCheckpoint}));
  expect_the_same_end(run);
}

TEST(ElasticRun, TheLastAgentIsNotDrained) {
  ControlledRun run(fragile(2, 1, 1));
  run.start();
  run.run_until_training();
  run.feed(DrainRequested{0, "the operator"});
  EXPECT_TRUE(run.noted("too few for any layout"));
  run.feed(DrainRequested{9, "the operator"});
  EXPECT_TRUE(run.noted("the run has no agent 9"));
  EXPECT_EQ(run.num_plans(), 1u);
  expect_the_same_end(run);
}

TEST(ElasticRun, AnAgentThatJoinsAddsReplicas) {
  ControlledRun run(fragile(2, 1, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.join_agent(2);
  run.run_to_end();
  EXPECT_TRUE(run.noted("agent 1 joins from another host (pid 5000) with 2 workers"));
  EXPECT_EQ(run.plan().degrees, (Degrees{4, 1, 1}));
  EXPECT_GE(run.plan().step, 6);
  expect_the_same_end(run);
}

TEST(ElasticRun, AnAgentThatAsksTwiceGetsOnePlace) {
  ControlledRun run(fragile(1, 1, 1));
  run.start();
  run.run_until_training();
  run.feed(AgentAsked{"the same", "elsewhere", 7, 1});
  run.feed(AgentAsked{"the same", "elsewhere", 7, 1});
  EXPECT_EQ(run.num_agents(), 2);
  const auto admitted = run.all<AdmitAgent>();
  ASSERT_EQ(admitted.size(), 2u);
  EXPECT_EQ(admitted[0].incarnation, admitted[1].incarnation);
  run.feed(AgentAsked{"another", "elsewhere", 8, 0});
  EXPECT_NE(run.all<AdmitAgent>().back().refusal, "");
  expect_the_same_end(run);
}

TEST(ElasticRun, AJoinedAgentThatDiesIsNotWaitedFor) {
  ControlledRun run(fragile(2, 1, 1));
  run.start();
  run.run_until_training();
  run.join_agent(1);
  run.run_until_training();
  train_until(run, 3);
  run.kill_agent(1);
  until_a_plan(run);
  EXPECT_EQ(run.plan().degrees, (Degrees{2, 1, 1}));
  EXPECT_TRUE(run.state.agents[1].gone);
  expect_the_same_end(run);
}

TEST(ElasticRun, IsScaledUpAndDown) {
  test::ControlledRunOptions o = fragile(2, 1, 1);
  o.total_steps = 40;
  ControlledRun run(o);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.feed(ScaleRequested{{3, 1, 1}, "the operator"});
  train_until(run, 3);
  EXPECT_EQ(run.num_seats(), 3);
  run.feed(ScaleRequested{{1, 1, 1}, "the operator"});
  train_until(run, 1);
  EXPECT_EQ(run.all<KillWorker>().size(), 2u) << "workers that are no longer needed end";
  run.settle();
  EXPECT_EQ(run.all<SpawnWorker>().size(), 3u) << "and are not started again";
  run.feed(ScaleRequested{{2, 1, 1}, "the operator"});
  train_until(run, 2);
  expect_the_same_end(run);
}

TEST(ElasticRun, ChangesItsNumberOfStagesThroughACheckpointOfTheBoundary) {
  test::ControlledRunOptions o = fragile(2, 2, 1);
  o.save_interval = 0;
  ControlledRun run(o);
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.feed(ScaleRequested{{1, 1, 4}, "the operator"});
  run.run_to_end();
  EXPECT_EQ(run.plan().degrees, (Degrees{1, 1, 4}));
  EXPECT_EQ(run.plan().step, 7);
  EXPECT_EQ(kinds(run.plan()), std::vector(4, kCheckpoint));
  expect_the_same_end(run);
}

TEST(ElasticRun, RefusesALayoutThatCannotBe) {
  const test::ControlledRunOptions o = fragile(2, 1, 1);
  ControlledRun run(o);
  run.start();
  EXPECT_EQ(refusal_of_scale(run.state, o.controller, {9, 1, 1}),
            "a step has 8 microbatches, too few for 9 replicas");
  EXPECT_EQ(refusal_of_scale(run.state, o.controller, {1, 1, 5}),
            "the model has 4 layers, too few for 5 stages");
  EXPECT_EQ(refusal_of_scale(run.state, o.controller, {1, 2, 1}),
            "the tensor-parallel degree of a run cannot change");
  EXPECT_EQ(refusal_of_scale(run.state, o.controller, {8, 1, 1}), "");
  EXPECT_EQ(scaled_target(run.state, o.controller, 5), (Degrees{5, 1, 1}));
}

void say_hashes(ControlledRun& run, const std::vector<std::string>& hashes, std::int64_t step) {
  for (std::uint32_t rank = 0; rank < hashes.size(); ++rank)
    run.feed(ShardHashed{rank, run.state.generation, run.state.branch, step, hashes[rank]});
}

TEST(ElasticRun, AReplicaWithOtherBitsIsExcludedAndItsGradientsAreUndone) {
  ControlledRun run(fragile(3, 1, 3));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  say_hashes(run, {"a", "a", "a"}, 6);
  EXPECT_EQ(run.state.phase, Phase::kRunning);
  say_hashes(run, {"a", "b", "a"}, 7);
  EXPECT_TRUE(run.noted("after step 7 rank 1 holds other bits than its replicas")) << run.notes();
  until_a_plan(run);
  EXPECT_EQ(run.plan().degrees, (Degrees{2, 1, 1}));
  EXPECT_EQ(run.plan().step, 5) << "not from memory";
  EXPECT_TRUE(run.state.agents[1].excluded_until);
  expect_the_same_end(run);
}

TEST(ElasticRun, OfTwoReplicasThatDifferNeitherIsBlamed) {
  ControlledRun run(fragile(2, 1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  say_hashes(run, {"a", "b"}, 7);
  until_a_plan(run);
  EXPECT_EQ(run.plan().degrees, (Degrees{2, 1, 1}));
  EXPECT_EQ(kinds(run.plan()), (std::vector{kCheckpoint, kCheckpoint}));
  expect_the_same_end(run);
}

TEST(ElasticRun, AStopWhileTheLayoutChangesStops) {
  ControlledRun run(fragile(2, 1, 2));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(6));
  run.feed(DrainRequested{1, "the operator"});
  run.feed(StopRequested{StopKind::kGraceful, "the operator"});
  run.run_to_end();
  EXPECT_EQ(run.violation(), "") << run.notes();
  EXPECT_EQ(run.state.exit_code, kExitStopped) << run.state.finish_reason;
}

TEST(ElasticRun, ASupervisorThatTakesOverKeepsTheSmallerLayout) {
  ControlledRun run(fragile(3, 1, 3));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(7));
  run.kill_agent(1);
  until_a_plan(run);
  run.run_until_training();
  ASSERT_TRUE(run.train_to(9));
  const std::uint64_t generation = run.state.generation;
  run.crash_supervisor();
  run.restart_supervisor();
  run.settle();
  EXPECT_EQ(run.state.generation, generation) << run.notes();
  EXPECT_TRUE(run.noted("nothing to do"));
  EXPECT_TRUE(run.state.agents[1].excluded_until);
  expect_the_same_end(run);
}

/// One replica, that of a joined agent, after the run was scaled down: the other's seat is retired.
void keep_the_joined_agent_alone(ControlledRun& run) {
  run.start();
  run.run_until_training();
  run.join_agent(1);
  train_until(run, 2);
  run.kill_worker(0);
  ASSERT_TRUE(run.deliver_from_agent(0));
  run.feed(ScaleRequested{{1, 1, 1}, "the operator"});
  until_a_plan(run);
  run.run_until_training();
  ASSERT_TRUE(run.state.seats[0].retired) << run.notes();
}

TEST(ElasticRun, WhatASmallerTargetKeptMayBeGoneWhenTheRunIsResumed) {
  test::ControlledRunOptions o = fragile(1, 1, 1);
  o.controller.worker_restarts.intensity = 1000;
  ControlledRun run(o);
  keep_the_joined_agent_alone(run);
  run.crash_supervisor();
  run.kill_agent(0);
  run.kill_agent(1);
  run.restart_supervisor();
  EXPECT_TRUE(run.state.agents[1].gone);
  expect_the_same_end(run);
}

TEST(ElasticRun, WhatASmallerTargetKeptMayDie) {
  test::ControlledRunOptions o = fragile(1, 1, 1);
  o.controller.worker_restarts.intensity = 1000;
  ControlledRun run(o);
  keep_the_joined_agent_alone(run);
  run.kill_agent(1);
  run.settle();
  EXPECT_TRUE(run.state.agents[1].gone);
  EXPECT_FALSE(run.state.seats[0].retired);
  expect_the_same_end(run);
}

}  // namespace
}  // namespace tenax::scheduler
