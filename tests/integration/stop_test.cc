// Asking a run to end: Ctrl-C once and twice, preemption, `tenax stop`. Nothing is lost by it, and
// nothing is left behind.
#include <gtest/gtest.h>
#include <signal.h>

#include <functional>

#include "tests/support/run_under_test.h"

namespace tenax::testing {

namespace {

constexpr std::int64_t kStopAfter = 12;

void expect_nothing_left(RunUnderTest& run) {
  EXPECT_TRUE(run.processes().empty()) << run.processes().size() << " processes are left";
  EXPECT_TRUE(run.segments().empty()) << run.segments().size() << " segments are left";
}

/// The run ends by `stop` with `exit_code` and a checkpoint of its last step; resumed, it ends like
/// the undisturbed one.
void expect_good_stop(const std::function<void(RunUnderTest&)>& stop, int exit_code) {
  const std::string hash = undisturbed_hash(shapes().front(), long_run());
  RunUnderTest run(shapes().front(), long_run());
  run.start();
  ASSERT_TRUE(run.wait_for_step(kStopAfter));
  stop(run);
  ASSERT_EQ(run.wait(), Ended({exit_code, 0})) << run.output();
  expect_nothing_left(run);
  EXPECT_NE(run.output().find("tenax train --resume --run-dir " + run.directory().string()),
            std::string::npos)
      << "it must say how to go on: " << run.output();
  const nlohmann::json state = run.json_lines("status").at(0);
  EXPECT_GE(state.at("step"), kStopAfter);
  EXPECT_LT(state.at("step"), RunUnderTest::kLongSteps);
  EXPECT_EQ(state.at("newest_checkpoint"), state.at("step")) << "it must save the step it stops at";
  EXPECT_EQ(state.at("exit_code"), exit_code);
  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  expect_nothing_left(run);
}

/// A run that cannot end in good order, because one of its workers stands still.
void start_and_stop_a_worker(RunUnderTest& run) {
  run.start();
  ASSERT_TRUE(run.wait_for_step(kStopAfter));
  ::kill(run.workers().at(1).pid, SIGSTOP);
}

void expect_intact(RunUnderTest& run) {
  const std::string hash = undisturbed_hash(shapes().front(), long_run());
  expect_nothing_left(run);
  for (const auto& line : run.json_lines("checkpoint verify", {"--full"})) {
    EXPECT_TRUE(line.at("ok").get<bool>()) << line.dump();
  }
  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
}

}  // namespace

TEST(Stop, OneInterruptSavesTheStepAndEndsWithSeven) {
  expect_good_stop([](RunUnderTest& run) { ::kill(run.supervisor(), SIGINT); }, 7);
}

TEST(Stop, ATerminationSignalSavesTheStepAndAsksToBeRequeued) {
  expect_good_stop([](RunUnderTest& run) { ::kill(run.supervisor(), SIGTERM); }, 75);
}

TEST(Stop, APreemptedRunGoesOnWithTheSameCommand) {
  RunUnderTest run(shapes().front(), long_run());
  run.start();
  ASSERT_TRUE(run.wait_for_step(5));
  ::kill(run.supervisor(), SIGTERM);
  EXPECT_EQ(run.wait(), Ended({75, 0}));
  run.start();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_NE(run.output().find("(resumed)"), std::string::npos);
  EXPECT_EQ(run.hash(), undisturbed_hash(shapes().front(), long_run()));
}

TEST(Stop, ARunThatDiedWithoutAnEndGoesOnWithTheSameCommand) {
  RunUnderTest run(shapes().front(), long_run());
  run.start();
  ASSERT_TRUE(run.wait_for_step(5));
  run.kill_everything();
  run.wait();
  EXPECT_TRUE(eventually(std::chrono::seconds(10), [&] { return run.processes().empty(); }));
  run.start();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shapes().front(), long_run()));
}

TEST(Stop, TheStopCommandDoesWhatAnInterruptDoes) {
  expect_good_stop(
      [](RunUnderTest& run) {
        EXPECT_EQ(run.tenax({"stop", run.directory().string()}).ended, Ended({0, 0}));
      },
      7);
}

TEST(Stop, AnInterruptBeforeTheFirstStepAlsoEndsInGoodOrder) {
  const std::string hash = undisturbed_hash(shapes().front(), long_run());
  RunUnderTest run(shapes().front(), long_run());
  run.start();
  ASSERT_TRUE(eventually(std::chrono::seconds(20),
                         [&] { return run.output().find("run starts") != std::string::npos; }));
  ::kill(run.supervisor(), SIGINT);
  ASSERT_EQ(run.wait(), Ended({7, 0})) << run.output();
  expect_nothing_left(run);
  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
}

TEST(Stop, ASecondInterruptLeavesAtOnceAndKeepsThePreviousCheckpoint) {
  RunUnderTest run(shapes().front(), long_run());
  start_and_stop_a_worker(run);
  ::kill(run.supervisor(), SIGINT);
  ASSERT_TRUE(eventually(std::chrono::seconds(20),
                         [&] { return run.output().find("interrupted") != std::string::npos; }));
  ::kill(run.supervisor(), SIGINT);
  ASSERT_EQ(run.wait(), Ended({130, 0})) << run.output();
  expect_intact(run);
}

TEST(Stop, TheStopCommandWithNowLeavesAtOnce) {
  RunUnderTest run(shapes().front(), long_run());
  start_and_stop_a_worker(run);
  EXPECT_EQ(run.tenax({"stop", "--now", run.directory().string()}).ended, Ended({0, 0}));
  ASSERT_EQ(run.wait(), Ended({130, 0})) << run.output();
  expect_intact(run);
}

TEST(Stop, TheStopCommandSaysThatNoSupervisorRuns) {
  RunUnderTest run(shapes().front(), {"train.steps=2"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const CommandResult stop = run.tenax({"stop", run.directory().string()});
  EXPECT_EQ(stop.ended, Ended({4, 0}));
  EXPECT_NE(stop.output.find("no supervisor"), std::string::npos) << stop.output;
}

}  // namespace tenax::testing
