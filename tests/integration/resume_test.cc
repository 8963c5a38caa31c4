// Going on with other settings.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/run_history.h"
#include "tests/support/run_under_test.h"

namespace tenax::testing {

TEST(Resume, MoreStepsEndLikeARunThatHadThemFromTheStart) {
  const Shape& shape = shapes().front();
  const std::string hash = undisturbed_hash(shape, {"optimizer.decay=constant", "train.steps=55"});
  RunUnderTest run(shape, {"optimizer.decay=constant", "train.steps=33"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  run.resume({"--set", "train.steps=55"});
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  const RunHistory history(run);
  EXPECT_EQ(history.count("configuration changed from step 34 on: train.steps: 33 -> 55"), 1);
  expect_each_position_once(history, 55, shape.global_batch_size, {});
}

TEST(Resume, AFinishedRunHasNothingToDo) {
  RunUnderTest run(shapes().front(), {"train.steps=5"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const std::string hash = run.hash();
  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
}

TEST(Resume, AKeyThatCannotChangeIsRefusedWithTheListOfThoseThatCan) {
  RunUnderTest run(shapes().front(), {"train.steps=2"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  run.resume({"--set", "model.width=64", "--set", "train.steps=5"});
  EXPECT_EQ(run.wait(), Ended({3, 0}));
  for (const char* words : {"model.width: 32 there, 64 now", "Changeable keys:", "train.steps",
                            "optimizer.learning_rate", "checkpoint.interval"}) {
    EXPECT_NE(run.output().find(words), std::string::npos) << words << " in: " << run.output();
  }
}

TEST(Resume, WithoutARunTheRecipeBeginsOne) {
  RunUnderTest run(shapes().front(), {"train.steps=3"});
  const CommandResult result = run.tenax({"train", run.recipe().string(), "--resume", "--run-dir",
                                          run.directory().string(), "--set", "train.steps=3"});
  EXPECT_EQ(result.ended, Ended({0, 0})) << result.output;
  run.set_directory(run.folder() / "nowhere");
  run.resume();
  EXPECT_EQ(run.wait(), Ended({3, 0}));
  EXPECT_NE(run.output().find("holds no run to resume"), std::string::npos) << run.output();
}

TEST(Resume, ABatchRampGoesOnWhereItWas) {
  const Shape& shape = shapes().front();
  const std::string constant = "optimizer.decay=constant";
  const std::string ramp = "train.batch_ramp=[\"8 x 4\"]";
  const std::string hash = undisturbed_hash(shape, {constant, ramp, "train.steps=14"});
  EXPECT_NE(hash, undisturbed_hash(shape, {constant, "train.steps=14"}));
  RunUnderTest run(shape, {constant, ramp, "train.steps=6"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  run.resume({"--set", "train.steps=14"});
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  const std::vector<nlohmann::json> metrics = run.json_lines("metrics");
  ASSERT_EQ(metrics.size(), 14u);
  EXPECT_EQ(metrics[7].at("position_end"), 32);
  EXPECT_EQ(metrics[8].at("position_begin"), 32);
  EXPECT_EQ(metrics[8].at("position_end"), 40);
}

TEST(Snapshot, OfWhichTrainingsWaitIsReportedByTheNextStepAndTraced) {
  RunUnderTest run(shapes().front(), {"train.steps=7", "checkpoint.policy=\"wait\""});  // every 5
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const std::vector<nlohmann::json> metrics = run.json_lines("metrics");
  ASSERT_EQ(metrics.size(), 7u);
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    const double waited = metrics[i].value("snapshot_seconds", 0.0);
    EXPECT_EQ(waited > 0, i == 5) << "step " << i + 1 << ": " << waited;
  }
  const std::filesystem::path file = run.folder() / "trace.json";
  const CommandResult result =
      run.tenax({"trace", run.directory().string(), "--step", "5", "--output", file.string()});
  ASSERT_EQ(result.ended, Ended({0, 0})) << result.output;
  std::ifstream in(file);
  const nlohmann::json trace = nlohmann::json::parse(in);
  std::set<int> ranks;
  for (const nlohmann::json& e : trace.at("traceEvents")) {
    if (e.at("name") == "snapshot") ranks.insert(e.at("tid").get<int>());
  }
  EXPECT_EQ(ranks, (std::set<int>{0, 1, 2, 3}));
}

TEST(Trace, ShowsWhatEveryRankDidInAStep) {
  const Shape& shape = shapes().back();
  RunUnderTest run(shape, {"train.steps=4"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const std::filesystem::path file = run.folder() / "trace.json";
  const CommandResult result =
      run.tenax({"trace", run.directory().string(), "--step", "3", "--output", file.string()});
  ASSERT_EQ(result.ended, Ended({0, 0})) << result.output;
  std::ifstream in(file);
  const nlohmann::json trace = nlohmann::json::parse(in);
  std::map<int, std::map<std::string, int>> counts;
  std::map<int, double> last_backward;
  std::map<int, double> first_reduction;
  for (const nlohmann::json& e : trace.at("traceEvents")) {
    const int rank = e.at("tid").get<int>();
    if (e.at("name") == "reduce" && e.at("ph") == "b") {
      const double begin = e.at("ts").get<double>();
      const auto [at, fresh] = first_reduction.emplace(rank, begin);
      if (!fresh) at->second = std::min(at->second, begin);
    }
    if (e.at("ph") != "X") continue;
    if (e.at("name") == "backward")
      last_backward[rank] =
          std::max(last_backward[rank], e.at("ts").get<double>() + e.at("dur").get<double>());
    ++counts[e.at("tid").get<int>()][e.at("name").get<std::string>()];
    EXPECT_GE(e.at("dur").get<double>(), 0);
    EXPECT_EQ(e.at("args").at("step"), 3);
  }
  EXPECT_GT(counts.size(), 1u);
  for (auto& [rank, names] : counts) {
    EXPECT_GT(names["forward"], 0) << rank;
    EXPECT_EQ(names["forward"], names["backward"]) << rank;
    for (const char* once : {"data", "gradient norm", "verdict", "update"})
      EXPECT_EQ(names[once], 1) << rank << " " << once;
    for (const char* kernel : {"qkv products", "attention", "norm", "adamw"})
      EXPECT_GT(names[kernel], 0) << rank << " " << kernel;
    ASSERT_TRUE(first_reduction.contains(rank)) << rank;
    EXPECT_LT(first_reduction[rank], last_backward[rank]) << rank;
  }
  const CommandResult none = run.tenax({"trace", run.directory().string(), "--step", "99"});
  EXPECT_EQ(none.ended, Ended({3, 0}));
  EXPECT_NE(none.output.find("keeps steps 1 to 4"), std::string::npos) << none.output;
}

}  // namespace tenax::testing
