// Runs that must not go on for ever: each ends clearly, with its own exit code, and can be resumed.
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/support/run_under_test.h"

namespace tenax::testing {

namespace {

using std::chrono::seconds;

constexpr int kGaveUp = 5;
const std::vector<std::string> kImpatient = {"supervision.hang_timeout=1s",
                                             "supervision.abort_timeout=500ms"};

std::vector<std::string> with_hang(std::vector<std::string> options) {
  options.insert(options.end(), kImpatient.begin(), kImpatient.end());
  return options;
}

}  // namespace

TEST(BusyWorker, ThatComputesForEverIsKilledAndReplaced) {
  RunUnderTest run(shapes().front(), with_hang({"faults.hang_step=20", "faults.rank=1"}));
  run.start();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shapes().front()));
  EXPECT_NE(run.journal().find("rank 1 did not leave its generation"), std::string::npos)
      << run.journal();
}

TEST(RestartStorm, EndsTheRunWithFiveAndItCanBeResumed) {
  const std::vector<std::string> longer = {"train.steps=200"};
  RunUnderTest run(shapes().front(), {"train.steps=200", "supervision.restart_intensity=2"});
  run.start();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(run.wait_for_step(10 * (i + 1)));
    const std::vector<RunProcess> workers = run.workers();
    ASSERT_FALSE(workers.empty());
    ::kill(workers.front().pid, SIGKILL);
    // Its death has been seen, so the next victim is another process.
    ASSERT_TRUE(eventually(seconds(20), [&] {
      const nlohmann::json state = run.state();
      return !run.supervisor_runs() ||
             (!state.is_null() && state["progress"]["restarts"].get<int>() > i);
    }));
  }
  EXPECT_EQ(run.wait(), Ended({kGaveUp, 0})) << run.output();
  EXPECT_NE(run.output().find("the restart strategy allows 2"), std::string::npos) << run.output();
  EXPECT_TRUE(eventually(seconds(10), [&] { return run.processes().empty(); }));
  run.resume();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shapes().front(), longer));
}

TEST(NoProgress, EndsTheRunWithFiveAndItCanBeResumed) {
  // Every generation hangs in the same step.
  RunUnderTest run(shapes().front(), with_hang({"faults.hang_step=12", "faults.hang_generations=4",
                                                "supervision.max_generations_without_progress=2"}));
  run.start();
  EXPECT_EQ(run.wait(), Ended({kGaveUp, 0})) << run.output();
  EXPECT_NE(run.output().find("no step was completed in the last 2 generations"), std::string::npos)
      << run.output();
  EXPECT_TRUE(eventually(seconds(10), [&] { return run.processes().empty(); }));
  run.resume();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shapes().front()));
}

}  // namespace tenax::testing
