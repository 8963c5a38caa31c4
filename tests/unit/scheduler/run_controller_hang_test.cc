// What the run controller does when a step hangs.
#include "tests/unit/scheduler/run_controller_cases.h"

namespace tenax::scheduler {
namespace {

using test::ControlledRun;

/// Trains twelve steps, so that their times are known: 0.1 s, but `ninth` for the ninth.
void train_until_times_are_known(ControlledRun& run, std::chrono::milliseconds ninth) {
  run.start();
  run.run_until_training();
  for (std::int64_t step = 1; step <= 12; ++step) {
    run.pass(step == 9 ? ninth : std::chrono::milliseconds(100));
    ASSERT_TRUE(run.train_to(step));
  }
}

TEST(RunController, ARankThatDoesNotAnswerTheAbortIsKilled) {
  ControlledRun run(run_of(2, 1));
  run.start();
  run.run_until_training();
  ASSERT_TRUE(run.train_to(3));
  run.hang_worker(0);
  EXPECT_FALSE(run.train_to(5));
  run.run_to_end();
  EXPECT_TRUE(run.noted("no step was reported"));
  ASSERT_EQ(run.all<KillWorker>().size(), 1u);
  expect_a_clean_end(run);
}

TEST(RunController, AHangIsFoundAfterFiveTimesTheLongestStepAndTheSlackAndTheCulpritNamed) {
  test::ControlledRunOptions o = run_of(3, 1);
  o.save_interval = 0;
  ControlledRun run(o);
  ASSERT_NO_FATAL_FAILURE(train_until_times_are_known(run, std::chrono::milliseconds(200)));
  run.hang_worker(2);
  EXPECT_FALSE(run.train_to(13));
  const Time before = run.now();
  ASSERT_TRUE(run.fire_timer());
  EXPECT_EQ(run.now() - before, Duration(std::chrono::milliseconds(1500))) << "5 x 0.2 s + 0.5 s";
  EXPECT_TRUE(
      run.noted("no step was reported for 1.5 s, 5 times its longest time of late, 0.200 s"))
      << run.notes();
  run.run_to_end();
  EXPECT_TRUE(
      run.noted("first culprit: rank 2 did not arrive: rank 0 waits for rank 2 in "
                "all_gather"))
      << run.notes();
  EXPECT_TRUE(run.noted("(cause: the step hangs; rank 2 did not arrive)")) << run.notes();
  expect_a_clean_end(run);
}

TEST(RunController, TheRankThatAllOthersWaitForIsKilledSoonAfterTheyHaveAnswered) {
  test::ControlledRunOptions o = run_of(3, 1);
  o.save_interval = 0;
  ControlledRun run(o);
  ASSERT_NO_FATAL_FAILURE(train_until_times_are_known(run, std::chrono::milliseconds(100)));
  run.hang_worker(2);
  EXPECT_FALSE(run.train_to(13));
  ASSERT_TRUE(run.fire_timer());
  while (run.deliver_to_agent(0) || run.deliver_from_worker(0) || run.deliver_from_worker(1) ||
         run.deliver_from_agent(0)) {
  }
  run.pass(run.controller().options().collect_window);
  const Time before = run.now();
  ASSERT_TRUE(run.fire_timer());
  ASSERT_TRUE(run.all<KillWorker>().empty() && run.fire_timer());
  EXPECT_LE(run.now() - before, run.controller().options().hang_grace);
  ASSERT_EQ(run.all<KillWorker>().size(), 1u) << run.notes();
  EXPECT_EQ(run.all<KillWorker>().front().slot, 2u);
  EXPECT_TRUE(run.noted("rank 2 did not leave its generation within 0.1 s and is killed"))
      << run.notes();
  expect_a_clean_end(run);
}

TEST(RunController, TheTimesOfStepsOutliveASupervisor) {
  ControlledRun run(run_of(2, 1));
  ASSERT_NO_FATAL_FAILURE(train_until_times_are_known(run, std::chrono::milliseconds(100)));
  const auto seen = run.state.watch.seconds;
  run.crash_supervisor();
  run.restart_supervisor();
  EXPECT_EQ(run.state.watch.seconds, seen);
  expect_a_clean_end(run);
}

}  // namespace
}  // namespace tenax::scheduler
