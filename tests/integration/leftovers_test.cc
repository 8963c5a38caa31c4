// What remains of a run after its end: no process, no zombie, no shared memory.
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/support/run_under_test.h"

namespace tenax::testing {

TEST(Leftovers, ARunThatIsDoneLeavesNoProcessAndNoSharedMemory) {
  for (const Shape& shape : {shapes().front(), shapes().back()}) {
    RunUnderTest run(shape, {"train.steps=5"});
    run.start();
    ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_TRUE(run.processes().empty());
    EXPECT_TRUE(run.segments().empty());
  }
}

TEST(Leftovers, AKilledWorkerIsWaitedFor) {
  RunUnderTest run(shapes().front(), {"train.steps=400"});
  run.start();
  ASSERT_TRUE(run.wait_for_step(3));
  ::kill(run.workers().at(0).pid, SIGKILL);
  EXPECT_TRUE(eventually(std::chrono::seconds(10), [&] {
    const nlohmann::json state = run.state();
    return !state.is_null() && state.at("generation") == 2 &&
           state.at("run").at("phase") == "running";
  })) << run.output();
  EXPECT_EQ(run.zombies(), 0);
}

TEST(Leftovers, WithoutASupervisorAgentsAndWorkersLeaveAfterTheGracePeriod) {
  for (const Shape& shape : {shapes().front(), shapes().back()}) {
    RunUnderTest run(shape, {"train.steps=100000", "supervision.supervisor_grace=2s"});
    run.start();
    ASSERT_TRUE(run.wait_for_step(5));
    ::kill(run.supervisor(), SIGKILL);
    run.wait();
    EXPECT_EQ(run.agents().size(), static_cast<std::size_t>(shape.agents));
    EXPECT_EQ(run.workers().size(), static_cast<std::size_t>(shape.world_size()));
    EXPECT_TRUE(eventually(std::chrono::seconds(15), [&] { return run.processes().empty(); }))
        << run.processes().size() << " processes are left";
    EXPECT_TRUE(run.segments().empty());
  }
}

TEST(Leftovers, TheNextRunSweepsTheSharedMemoryOfOneThatWasKilled) {
  RunUnderTest killed;
  killed.start();
  ASSERT_TRUE(killed.wait_for_step(8));
  killed.kill_everything();
  killed.wait();
  ASSERT_TRUE(eventually(std::chrono::seconds(10), [&] { return killed.processes().empty(); }));
  EXPECT_FALSE(killed.segments().empty()) << "the test has nothing to show";
  RunUnderTest next(shapes().front(), {"train.steps=2"});
  next.start();
  EXPECT_EQ(next.wait(), Ended({0, 0})) << next.output();
  EXPECT_TRUE(killed.segments().empty());
}

TEST(Leftovers, TheSweepOfOneRunTakesNothingFromAnother) {
  const std::vector<std::string> longer = {"train.steps=150"};
  const std::string hash = undisturbed_hash(shapes().front(), longer);
  RunUnderTest run(shapes().front(), longer);
  run.start();
  for (const std::int64_t step : {10, 40, 70}) {
    run.wait_for_step(step);
    if (const auto victims = run.workers(); !victims.empty()) ::kill(victims[1].pid, SIGKILL);
    RunUnderTest other(shapes().front(), {"train.steps=5"});
    other.start();
    EXPECT_EQ(other.wait(), Ended({0, 0})) << other.output();
  }
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  EXPECT_EQ(run.journal().find("could not be saved"), std::string::npos);
}

}  // namespace tenax::testing
