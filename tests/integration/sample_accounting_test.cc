// T3: every position of the run's order is trained exactly once, whatever was killed.
#include <gtest/gtest.h>
#include <signal.h>

#include <map>
#include <set>
#include <tuple>

#include "tests/support/run_history.h"
#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

TEST(SampleAccounting, EveryPositionIsTrainedExactlyOnceWhateverWasKilled) {
  for_each_seed(std::chrono::seconds(2), [](const Shape& shape, Choices& choices) {
    RunUnderTest run(shape);
    run.start();
    run.wait_for_step(choices.between(2, 10));
    if (const auto victims = run.workers(); !victims.empty())
      ::kill(choices.of(victims).pid, SIGKILL);
    run.wait_for_step(choices.between(12, 20));
    if (const auto victims = run.agents(); !victims.empty())
      ::kill(choices.of(victims).pid, SIGKILL);
    run.wait_for_step(choices.between(22, 30));
    run.kill_everything();
    run.wait();
    run.resume();
    ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();

    const RunHistory history(run);
    EXPECT_GT(history.num_generations(), 2);
    expect_each_position_once(history, RunUnderTest::kSteps, shape.global_batch_size, {});
  });
}

}  // namespace tenax::testing
