// The same training in other layouts, and what a killed worker does to them.
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

constexpr auto kBudget = std::chrono::seconds(3);

/// One worker unless overrides say otherwise; four layers, twelve samples a step.
Shape one_process() { return {"1x1", 1, 1, 1, 4, 12}; }

std::vector<std::string> layout(int dp, int tp, int pp, std::vector<std::string> more = {}) {
  more.push_back("layout.data_parallel=" + std::to_string(dp));
  more.push_back("layout.tensor_parallel=" + std::to_string(tp));
  more.push_back("layout.pipeline_parallel=" + std::to_string(pp));
  return more;
}

}  // namespace

TEST(RunInAnotherLayout, WithoutTensorParallelismEndsWithTheWeightsOfOneProcess) {
  const std::string alone = undisturbed_hash(one_process());
  EXPECT_EQ(undisturbed_hash(one_process(), layout(3, 1, 1, {"layout.zero=1"})), alone);
  EXPECT_EQ(undisturbed_hash(one_process(), layout(1, 1, 2, {"layout.virtual_stages=2"})), alone);
  EXPECT_EQ(undisturbed_hash(one_process(), layout(1, 1, 4, {"train.schedule=\"gpipe\""})), alone);
  EXPECT_EQ(undisturbed_hash(one_process(),
                             layout(2, 1, 2, {"layout.zero=1", "layout.virtual_stages=2"})),
            alone);
}

TEST(RunInAnotherLayout, WithTensorParallelismEndsWithTheWeightsOfAnySuchLayout) {
  const std::string shared = undisturbed_hash(one_process(), layout(1, 2, 1));
  EXPECT_EQ(undisturbed_hash(one_process(),
                             layout(2, 2, 2, {"layout.zero=1", "layout.virtual_stages=2"})),
            shared);
}

TEST(KilledRun, OfWhichATensorParallelWorkerDiesEndsWithTheUndisturbedWeights) {
  for_each_seed(kBudget, [](const Shape&, Choices& choices) {
    const std::vector<std::string> overrides = layout(2, 2, 1);
    const std::string hash = undisturbed_hash(one_process(), overrides);
    RunUnderTest run(one_process(), overrides);
    run.start();
    run.wait_for_step(choices.between(1, RunUnderTest::kSteps - 5));
    const std::vector<RunProcess> workers = run.workers();
    if (!workers.empty()) ::kill(choices.of(workers).pid, SIGKILL);
    EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_EQ(run.hash(), hash);
  });
}

TEST(RunInAnotherLayout, ATensorParallelCheckpointIsReadByOneProcess) {
  RunUnderTest run(one_process(), layout(1, 2, 2, {"layout.zero=1", "train.steps=6"}));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const CommandResult text =
      run.tenax({"generate", run.directory().string(), "--prompt", "a", "--tokens", "8"});
  EXPECT_EQ(text.ended, Ended({0, 0})) << text.output;
  const CommandResult verified =
      run.tenax({"checkpoint", "verify", run.directory().string(), "--full"});
  EXPECT_EQ(verified.ended, Ended({0, 0})) << verified.output;
}

}  // namespace tenax::testing
