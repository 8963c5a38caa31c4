// T2 and T3: a run that loses workers for good, is drained, scaled or joined ends with the weights
// of the undisturbed run, bit for bit, and trains each sample once.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/elastic_run.h"
#include "tests/support/run_history.h"
#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

using std::chrono::seconds;

/// Four replicas, each on an agent of its own: three do not divide the four microbatches.
const Shape kReplicas = {"4x1a4", 4, 1, 4, 2, 8};
/// Two stages, each on an agent of its own.
const Shape kStages = {"1x2a2", 1, 2, 2, 2, 8};
const Shape kGrid = {"2x2a2", 2, 2, 2, 2, 8};
const std::vector<std::string> kNoRestart = {"supervision.restart_intensity=0"};

std::vector<std::string> with(std::vector<std::string> overrides,
                              const std::vector<std::string>& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}

}  // namespace

TEST(ElasticRun, ThatLosesAReplicaForGoodTrainsTheSameWithThree) {
  const std::vector<std::string> options = {"train.steps=120"};
  RunUnderTest run(kReplicas, with(options, kNoRestart));
  run.start();
  run.wait_for_step(20);
  kill_agent(run, 2);
  ASSERT_TRUE(wait_for_layout(run, 3, 1));
  EXPECT_EQ(run.state()["agents"][2]["state"], "excluded");
  expect_end(run, kReplicas, options);
  EXPECT_NE(run.journal().find("dp 3 x pp 1 instead of dp 4 x pp 1: go on after step"),
            std::string::npos)
      << "nothing moves: the three go on from memory";
}

TEST(ElasticRun, ThatLosesAStageForGoodMergesTheStages) {
  const std::vector<std::string> options = {"train.steps=120"};
  RunUnderTest run(kStages, with(options, kNoRestart));
  run.start();
  run.wait_for_step(20);
  kill_agent(run, 1);
  ASSERT_TRUE(wait_for_layout(run, 1, 1));
  expect_end(run, kStages, options);
}

TEST(ElasticRun, GrowsBackWhenAnExclusionIsOver) {
  const std::vector<std::string> options = {"train.steps=600", "checkpoint.interval=50"};
  RunUnderTest run(kReplicas, with(options, {"supervision.restart_intensity=0",
                                             "supervision.exclusion_period=500ms"}));
  run.start();
  run.wait_for_step(20);
  kill_agent(run, 0);
  ASSERT_TRUE(wait_for_layout(run, 3, 1));
  ASSERT_TRUE(wait_for_layout(run, 4, 1));
  expect_end(run, kReplicas, options);
  EXPECT_NE(run.journal().find("3 ranks from memory, 1 from a data-parallel peer"),
            std::string::npos);
}

TEST(ElasticRun, IsDrainedOfAnAgentAndReplaysNothing) {
  const std::vector<std::string> options = {"train.steps=300", "checkpoint.interval=50"};
  RunUnderTest run(kGrid, options);
  run.start();
  run.wait_for_step(20);
  const CommandResult drained = run.tenax({"drain", run.directory().string(), "1"});
  EXPECT_EQ(drained.ended, Ended({0, 0})) << drained.output;
  ASSERT_TRUE(wait_for_layout(run, 1, 2));
  EXPECT_TRUE(eventually(seconds(20), [&] { return run.agents().size() == 1; }));
  const CommandResult again = run.tenax({"drain", run.directory().string(), "0"});
  EXPECT_EQ(again.ended, Ended({3, 0})) << "the last agent stays";
  EXPECT_NE(again.output.find("too few for any layout"), std::string::npos) << again.output;
  expect_end(run, kGrid, options);
  EXPECT_EQ(run.journal().find("and replay"), std::string::npos);
}

TEST(ElasticRun, IsJoinedByAnotherAgent) {
  const std::vector<std::string> options = {"train.steps=400", "checkpoint.interval=50"};
  const Shape two = {"2x1", 2, 1, 1, 2, 8};
  RunUnderTest run(two, options);
  run.start();
  run.wait_for_step(20);
  ChildProcess agent({TENAX_PROGRAM, "agent", "--join", run.directory().string(), "--workers", "2"},
                     run.folder() / "joined.out", run.folder());
  ASSERT_TRUE(wait_for_layout(run, 4, 1)) << agent.output();
  EXPECT_EQ(run.state()["agents"][1]["joined"], true);
  expect_end(run, two, options);
  EXPECT_EQ(agent.wait(seconds(10)), Ended({0, 0})) << agent.output();
}

TEST(ElasticRun, IsJoinedByAddressAndDoesWithoutTheAgentWhenItIsKilled) {
  const std::vector<std::string> options = {"train.steps=400", "checkpoint.interval=50"};
  const Shape two = {"2x1", 2, 1, 1, 2, 8};
  RunUnderTest run(two, options);
  run.start();
  run.wait_for_step(20);
  nlohmann::json address;
  std::ifstream(run.directory() / "supervisor.json") >> address;
  const std::string endpoint = address["endpoint"];
  // The address it is told counts, not the one on record.
  address["endpoint"] = "tcp://127.0.0.1:1";
  std::ofstream(run.directory() / "supervisor.json") << address;
  ChildProcess agent({TENAX_PROGRAM, "agent", "--join", endpoint, "--run-dir",
                      run.directory().string(), "--workers", "1"},
                     run.folder() / "joined.out", run.folder());
  ASSERT_TRUE(wait_for_layout(run, 3, 1)) << agent.output();
  agent.signal(SIGKILL);
  ASSERT_TRUE(wait_for_layout(run, 2, 1));
  expect_end(run, two, options);
}

TEST(ElasticRun, IsLeftInGoodOrderByAnAgentThatIsPreempted) {
  const std::vector<std::string> options = {"train.steps=400", "checkpoint.interval=50"};
  const Shape two = {"2x1", 2, 1, 1, 2, 8};
  RunUnderTest run(two, options);
  run.start();
  run.wait_for_step(20);
  ChildProcess agent({TENAX_PROGRAM, "agent", "--join", run.directory().string(), "--workers", "1"},
                     run.folder() / "joined.out", run.folder());
  ASSERT_TRUE(wait_for_layout(run, 3, 1)) << agent.output();
  agent.signal(SIGTERM);
  ASSERT_TRUE(wait_for_layout(run, 2, 1)) << agent.output();
  EXPECT_EQ(agent.wait(seconds(10)), Ended({0, 0})) << agent.output();
  expect_end(run, two, options);
  EXPECT_EQ(run.journal().find("is lost"), std::string::npos);
}

TEST(ElasticRun, IsScaledUpDownAndToOtherStages) {
  const std::vector<std::string> options = {"train.steps=900", "checkpoint.interval=100"};
  const Shape two = {"2x1", 2, 1, 1, 2, 8};
  RunUnderTest run(two, options);
  run.start();
  run.wait_for_step(20);
  const auto scale = [&](const std::vector<std::string>& to) {
    std::vector<std::string> arguments = {"scale", run.directory().string()};
    arguments.insert(arguments.end(), to.begin(), to.end());
    const CommandResult result = run.tenax(arguments);
    EXPECT_EQ(result.ended, Ended({0, 0})) << result.output;
  };
  scale({"--workers", "3"});
  ASSERT_TRUE(wait_for_layout(run, 3, 1));
  scale({"--dp", "1", "--pp", "2"});
  ASSERT_TRUE(wait_for_layout(run, 1, 2));
  scale({"--workers", "1"});
  ASSERT_TRUE(wait_for_layout(run, 1, 1));
  EXPECT_TRUE(eventually(seconds(20), [&] { return run.workers().size() == 1; }));
  const CommandResult refused = run.tenax({"scale", run.directory().string(), "--dp", "5"});
  EXPECT_EQ(refused.ended, Ended({3, 0}));
  EXPECT_NE(refused.output.find("a step has 4 microbatches"), std::string::npos) << refused.output;
  expect_end(run, two, options);
}

TEST(ElasticRun, ResumedAfterScalingSaysTheLayoutThatItHas) {
  const Shape two = {"2x1", 2, 1, 1, 2, 8};
  RunUnderTest run(two, {"train.steps=900", "checkpoint.interval=100"});
  run.start();
  run.wait_for_step(20);
  EXPECT_NE(run.output().find("2 workers on 1 agent: data parallel 2 x"), std::string::npos);
  const std::string directory = run.directory().string();
  ASSERT_EQ(run.tenax({"scale", directory, "--workers", "1"}).ended, Ended({0, 0}));
  ASSERT_TRUE(wait_for_layout(run, 1, 1));
  ASSERT_EQ(run.tenax({"stop", directory}).ended, Ended({0, 0}));
  ASSERT_EQ(run.wait(), Ended({7, 0})) << run.output();
  EXPECT_EQ(run.json_lines("status").at(0).at("target").at("dp"), 1);
  EXPECT_TRUE(run.json_lines("status").at(0).at("supervisor").is_null());
  run.resume();
  ASSERT_TRUE(wait_for_layout(run, 1, 1));
  EXPECT_NE(run.output().find("1 worker on 1 agent: data parallel 1 x pipeline parallel 1 (scaled"),
            std::string::npos)
      << run.output();
}

TEST(ElasticRun, WithAShardedOptimizerLosesAReplicaForGoodAndTrainsTheSameWithThree) {
  // Each replica alone has the moments of its share: three cannot go on from memory.
  const std::vector<std::string> options = {"train.steps=120", "layout.zero=1"};
  RunUnderTest run(kReplicas, with(options, kNoRestart));
  run.start();
  run.wait_for_step(20);
  kill_agent(run, 2);
  ASSERT_TRUE(wait_for_layout(run, 3, 1));
  expect_end(run, kReplicas, options);
  EXPECT_EQ(undisturbed_hash(kReplicas, options),
            undisturbed_hash(kReplicas, {"train.steps=120", "layout.zero=0"}))
      << "the shards are put together to the same tensors";
}

TEST(ElasticRun, WithAShardedOptimizerIsScaledToOtherReplicasAndStages) {
  const std::vector<std::string> options = {"train.steps=600", "checkpoint.interval=100",
                                            "layout.zero=1"};
  const Shape two = {"2x1", 2, 1, 1, 2, 8};
  RunUnderTest run(two, options);
  run.start();
  run.wait_for_step(20);
  for (const auto& [dp, pp] : {std::pair(3, 1), std::pair(2, 2), std::pair(1, 1)}) {
    const CommandResult scaled = run.tenax({"scale", run.directory().string(), "--dp",
                                            std::to_string(dp), "--pp", std::to_string(pp)});
    EXPECT_EQ(scaled.ended, Ended({0, 0})) << scaled.output;
    ASSERT_TRUE(wait_for_layout(run, dp, pp));
  }
  expect_end(run, two, options);
}

TEST(ElasticRun, WithTensorParallelismLosesAReplicaForGoodAndTrainsTheSame) {
  const std::vector<std::string> options = {"train.steps=120", "layout.tensor_parallel=2"};
  const Shape two = {"2x1a2", 2, 1, 2, 2, 8};
  RunUnderTest run(two, with(options, kNoRestart));
  run.start();
  run.wait_for_step(20);
  kill_agent(run, 1);
  ASSERT_TRUE(wait_for_layout(run, 1, 1));
  EXPECT_EQ(run.state()["layout"]["tp"], 2);
  expect_end(run, two, options);
}

TEST(ElasticRun, WithTensorParallelismIsScaledToOtherStages) {
  const std::vector<std::string> options = {"train.steps=400", "checkpoint.interval=50",
                                            "layout.tensor_parallel=2", "layout.zero=1"};
  const Shape two = {"2x1", 2, 1, 1, 2, 8};
  RunUnderTest run(two, options);
  run.start();
  run.wait_for_step(20);
  const CommandResult scaled =
      run.tenax({"scale", run.directory().string(), "--dp", "1", "--pp", "2"});
  EXPECT_EQ(scaled.ended, Ended({0, 0})) << scaled.output;
  ASSERT_TRUE(wait_for_layout(run, 1, 2));
  EXPECT_EQ(run.state()["layout"]["tp"], 2);
  expect_end(run, two, options);
}

TEST(ElasticRun, ASpareTakesTheRankOfADeadWorker) {
  for_each_seed(seconds(2), [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape, {"layout.spares=1"});
    run.start();
    run.wait_for_step(choices.between(1, RunUnderTest::kSteps - 5));
    const std::vector<RunProcess> victims = run.workers();
    if (!victims.empty()) ::kill(choices.of(victims).pid, SIGKILL);
    EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_EQ(run.hash(), hash);
  });
}

TEST(ElasticRun, WithAFlippedBitInOneReplicaEndsWithTheUndisturbedWeights) {
  const std::vector<std::string> options = {"train.steps=120"};
  RunUnderTest run(kReplicas,
                   with(options, {"faults.weight_step=24", "faults.rank=2", "faults.flip_bit=20",
                                  "supervision.integrity_interval=5"}));
  run.start();
  expect_end(run, kReplicas, options);
  const std::string journal = run.journal();
  EXPECT_NE(journal.find("after step 25 rank 2 holds other bits"), std::string::npos) << journal;
  EXPECT_NE(journal.find("agent 2 is excluded"), std::string::npos) << journal;
}

TEST(ElasticRun, ThatIsResumedAfterEverythingDiedHasAllItsWorkersAgain) {
  const std::vector<std::string> options = {"train.steps=120"};
  RunUnderTest run(kReplicas, with(options, kNoRestart));
  run.start();
  run.wait_for_step(20);
  kill_agent(run, 2);
  ASSERT_TRUE(wait_for_layout(run, 3, 1));
  run.kill_everything();
  run.wait();
  EXPECT_TRUE(eventually(seconds(10), [&] { return run.processes().empty(); }));
  run.resume();
  ASSERT_TRUE(wait_for_layout(run, 4, 1));
  expect_end(run, kReplicas, options);
}

}  // namespace tenax::testing
