// Bad samples: the run goes back before them, leaves them out and tells so; what it saves is always
// finite (S1, S2).
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>

#include "tests/support/run_history.h"
#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

constexpr std::int64_t kPoisoned = 30;
constexpr std::int64_t kSteps = 60;
constexpr std::int64_t kMargin = 4;

/// The detector of a run of 60 steps: quick to learn and to decide.
std::vector<std::string> poisoned(const std::string& kind) {
  return {"train.steps=60",
          "faults.poison_batch=30",
          "faults.poison_num_batches=6",
          "faults.poison_kind=" + kind,
          "spikes.warmup_samples=10",
          "spikes.window=10",
          "spikes.patience=4",
          "spikes.confirm_of=2",
          "spikes.recovery_samples=3",
          "spikes.cooldown_samples=5",
          "spikes.resume_hold=2",
          "spikes.margin_steps=4",
          "spikes.region_steps=10",
          "spikes.max_skipped_fraction=0.5"};
}

/// One rollback to before the bad samples; they are skipped; the rest is trained once.
void expect_skipped(RunUnderTest& run, const Shape& shape) {
  const RunHistory history(run);
  EXPECT_EQ(history.final_branch(), 1u);
  ASSERT_EQ(history.skip_windows().size(), 1u);
  const SkipWindow window = history.skip_windows().front();
  EXPECT_LE(window.begin, (kPoisoned - 1) * shape.global_batch_size);
  EXPECT_GE(window.end, (kPoisoned + 5) * shape.global_batch_size);
  EXPECT_LE(window.end, (kPoisoned + 5 + 2 * kMargin) * shape.global_batch_size);
  expect_each_position_once(history, kSteps, shape.global_batch_size, history.skip_windows());
  for (const auto& [step, facts] : history.path())
    EXPECT_TRUE(std::isfinite(facts.loss)) << "step " << step;

  EXPECT_EQ(history.count("rollback 1: branch 1 leaves branch 0"), 1);
  const std::string text = run.tenax({"journal", run.directory().string()}).output;
  EXPECT_NE(text.find("rollback 1: branch 1 leaves branch 0 after step"), std::string::npos)
      << text;
  EXPECT_NE(text.find("are skipped"), std::string::npos) << text;
  expect_checkpoints_sound_and_finite(run);
}

}  // namespace

TEST(PoisonedBatch, OfRandomTokensIsRolledBackAndSkipped) {
  const Shape& shape = shapes().front();
  RunUnderTest run(shape, poisoned("random_tokens"));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  expect_skipped(run, shape);
  EXPECT_TRUE(RunHistory(run).skipped_updates().empty());
}

TEST(PoisonedBatch, OfNaNsNeverReachesTheWeightsAndIsRolledBack) {
  const Shape& shape = shapes().front();
  RunUnderTest run(shape, poisoned("nan"));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  expect_skipped(run, shape);
  const RunHistory history(run);
  // The third non-finite loss in a row is the verdict.
  EXPECT_GE(history.skipped_updates().size(), 3u);
  for (const auto& [branch, step] : history.skipped_updates()) {
    EXPECT_EQ(branch, 0u);
    EXPECT_GE(step, kPoisoned);
    EXPECT_LT(step, kPoisoned + 6);
  }
}

TEST(PoisonedBatch, IsSkippedTheSameWayWhenAProcessIsKilled) {
  for_each_seed(std::chrono::seconds(3), [](const Shape& shape, Choices& choices) {
    const std::vector<std::string> overrides =
        poisoned(choices.between(0, 1) == 0 ? "random_tokens" : "nan");
    const std::string hash = undisturbed_hash(shape, overrides);
    RunUnderTest run(shape, overrides);
    run.start();
    if (choices.between(0, 1) == 0) {
      run.wait_for_step(choices.between(kPoisoned - 6, kPoisoned + 1));
    } else {
      eventually(std::chrono::seconds(30), [&] {
        const nlohmann::json state = run.state();
        return !run.supervisor_runs() || (!state.is_null() && state.at("branch") == 1);
      });
    }
    sleep_for(choices.up_to(std::chrono::milliseconds(200)));
    const bool agent = choices.between(1, 4) == 1;
    if (const auto victims = agent ? run.agents() : run.workers(); !victims.empty())
      ::kill(choices.of(victims).pid, SIGKILL);
    ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_EQ(run.hash(), hash);
    expect_skipped(run, shape);
  });
}

TEST(PoisonedBatch, OfARunThatDiesWholeAfterTheRollbackIsNotTrainedAgainWhenResumed) {
  const Shape& shape = shapes().front();
  const std::vector<std::string> overrides = poisoned("random_tokens");
  const std::string hash = undisturbed_hash(shape, overrides);
  RunUnderTest run(shape, overrides);
  run.start();
  ASSERT_TRUE(eventually(std::chrono::seconds(60), [&] {
    const nlohmann::json state = run.state();
    return !run.supervisor_runs() || (!state.is_null() && state.at("branch") == 1);
  }));
  run.kill_everything();
  run.wait();
  EXPECT_TRUE(eventually(std::chrono::seconds(10), [&] { return run.processes().empty(); }));
  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash) << "the left branch was resumed, or the samples were trained";
  expect_skipped(run, shape);
}

}  // namespace tenax::testing
