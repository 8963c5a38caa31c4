#include <gtest/gtest.h>

#include <fstream>

#include "tests/training/trained_run.h"

namespace tenax::testing {
namespace {

/// Metrics of the step; null if it was not reported.
nlohmann::json at_step(const std::vector<nlohmann::json>& metrics, int step) {
  for (const nlohmann::json& m : metrics) {
    if (m["step"] == step) return m;
  }
  return nullptr;
}

// Bit for bit: JSON carries doubles without loss.
TEST(Eval, IsTheLossThatTheRunReportedWhateverItsLayout) {
  const TrainingFolder folder;
  folder.train("run", {"train.steps=60", "train.eval_interval=30", "checkpoint.interval=30",
                       "layout.data_parallel=2", "layout.pipeline_parallel=2",
                       "train.microbatch_size=2", "train.eval_samples=14"});
  ASSERT_FALSE(::testing::Test::HasFatalFailure());
  const auto metrics = folder.metrics("run");
  const auto newest = folder.json_lines({"eval", "run", "--json"});
  ASSERT_EQ(newest.size(), 1u);
  EXPECT_EQ(newest[0]["step"], 60);
  EXPECT_EQ(newest[0]["targets"], 14 * 64);
  EXPECT_EQ(newest[0]["loss"], at_step(metrics, 60)["eval_loss"]);
  const auto earlier = folder.json_lines({"eval", "run", "--step", "30", "--json"});
  ASSERT_EQ(earlier.size(), 1u);
  EXPECT_EQ(earlier[0]["loss"], at_step(metrics, 30)["eval_loss"]);
  EXPECT_NE(earlier[0]["loss"], newest[0]["loss"]);
}

TEST(Eval, ComputesWithTheRunsPrecisionAndDocuments) {
  const TrainingFolder folder;
  folder.train("run", {"train.steps=20", "train.eval_interval=20", "train.precision=bf16",
                       "data.packing=documents", "train.dropout_residual=0.1"});
  ASSERT_FALSE(::testing::Test::HasFatalFailure());
  const auto newest = folder.json_lines({"eval", "run", "--json"});
  ASSERT_EQ(newest.size(), 1u);
  EXPECT_EQ(newest[0]["loss"], at_step(folder.metrics("run"), 20)["eval_loss"]);
}

TEST(Eval, TakesOtherTextAndPredictsEachOfItsTokensOnce) {
  const TrainingFolder folder;
  folder.train("run", {"train.steps=60"});
  std::ofstream(folder.path() / "a.txt") << std::string(1000, 'e');
  std::ofstream(folder.path() / "b.txt") << "the weights of the run and the steps of it";
  const auto both = folder.json_lines({"eval", "run", "--text", "a.txt", "b.txt", "--json"});
  const auto b = folder.json_lines({"eval", "run", "--text", "b.txt", "--json"});
  ASSERT_EQ(both.size() + b.size(), 2u);
  // Every byte and the end of each document.
  EXPECT_EQ(both[0]["targets"], 1000 + 42 + 2);
  EXPECT_EQ(b[0]["targets"], 42 + 1);
  EXPECT_GT(b[0]["loss"], 0.5);
  EXPECT_LT(b[0]["loss"], 5.0);
}

TEST(Eval, NamesWhatIsMissing) {
  const TrainingFolder folder;
  EXPECT_EQ(folder.tenax({"eval", "nowhere"}).ended, Ended({4, 0}));
  folder.train("run", {"train.steps=12"});
  const CommandResult step = folder.tenax({"eval", "run", "--step", "3"});
  EXPECT_EQ(step.ended, Ended({4, 0}));
  EXPECT_NE(step.output.find("there is no checkpoint of step 3"), std::string::npos) << step.output;
}

}  // namespace
}  // namespace tenax::testing
