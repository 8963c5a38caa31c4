// Going on with other settings.
#include <gtest/gtest.h>

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

}  // namespace tenax::testing
