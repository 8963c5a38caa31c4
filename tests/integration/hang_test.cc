// Processes that stop without dying: found by missing progress or heartbeats, replaced, and the run
// ends with the undisturbed weights.
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

const std::vector<std::string> kImpatient = {"supervision.hang_timeout=2s",
                                             "supervision.abort_timeout=500ms",
                                             "supervision.heartbeat_timeout=1500ms"};

void expect_recovery(const Shape& shape, Choices& choices, Role role) {
  const std::string hash = undisturbed_hash(shape);
  RunUnderTest run(shape, kImpatient);
  run.start();
  run.wait_for_step(choices.between(1, RunUnderTest::kSteps - 5));
  sleep_for(choices.up_to(std::chrono::milliseconds(30)));
  const std::vector<RunProcess> victims = role == Role::kAgent ? run.agents() : run.workers();
  ASSERT_FALSE(victims.empty());
  const pid_t victim = choices.of(victims).pid;
  ::kill(victim, SIGSTOP);
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  for (const RunProcess& p : run.processes()) EXPECT_NE(p.pid, victim) << "it was not killed";
}

}  // namespace

TEST(StoppedProcess, AWorkerThatHangsIsReplaced) {
  for_each_seed(std::chrono::seconds(1), [](const Shape& shape, Choices& choices) {
    expect_recovery(shape, choices, Role::kWorker);
  });
}

TEST(StoppedProcess, TheRankThatHangsIsNamedWithWhoWaitedForItAndWhatItDid) {
  const Shape shape = shapes().front();
  const std::string longer = "train.steps=300";
  RunUnderTest run(shape, {longer, "supervision.abort_timeout=500ms"});
  run.start();
  ASSERT_TRUE(run.wait_for_step(12)) << "the times of steps are known";
  const nlohmann::json state = run.state();
  ASSERT_FALSE(state.is_null());
  const nlohmann::json victim = state["ranks"].back();
  ::kill(victim["pid"].get<pid_t>(), SIGSTOP);
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed_hash(shape, {longer}));
  const std::string journal = run.journal();
  EXPECT_NE(journal.find("times its longest time of late"), std::string::npos) << journal;
  EXPECT_NE(journal.find("first culprit: rank " + victim["rank"].dump() + " did not arrive: rank "),
            std::string::npos)
      << journal;
  EXPECT_NE(journal.find("T (stopped)"), std::string::npos) << "the state of its threads";
  EXPECT_NE(journal.find("waiting"), std::string::npos) << "the transfers of the others";
}

TEST(StoppedProcess, AnAgentThatHangsIsReplacedWithItsWorkers) {
  for_each_seed(std::chrono::seconds(1), [](const Shape& shape, Choices& choices) {
    expect_recovery(shape, choices, Role::kAgent);
  });
}

TEST(StoppedProcess, ASupervisorThatPausesGoesOnAfterwards) {
  for_each_seed(std::chrono::seconds(1), [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape, kImpatient);
    run.start();
    run.wait_for_step(choices.between(1, RunUnderTest::kSteps - 5));
    ::kill(run.supervisor(), SIGSTOP);
    sleep_for(scaled(std::chrono::milliseconds(choices.between(500, 2500))));
    ::kill(run.supervisor(), SIGCONT);
    EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
    EXPECT_EQ(run.hash(), hash);
  });
}

}  // namespace tenax::testing
