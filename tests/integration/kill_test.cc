// T1: a run whose processes are killed ends with the weights of the undisturbed run, bit for bit.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <set>

#include "tests/support/run_under_test.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kBudget = seconds(3);

/// Waits for a random moment of the run: now and then one before the first step, else one within a
/// random step.
void wait_for_random_moment(RunUnderTest& run, Choices& choices, std::int64_t last_step) {
  if (choices.between(1, 6) == 1) {
    sleep_for(scaled(choices.up_to(milliseconds(600))));
    return;
  }
  const std::int64_t step = choices.between(1, last_step);
  const Milliseconds within = choices.up_to(milliseconds(30));
  run.wait_for_step(step);
  sleep_for(within);
}

void kill_one(const std::vector<RunProcess>& victims, Choices& choices) {
  if (!victims.empty()) ::kill(choices.of(victims).pid, SIGKILL);
}

void expect_done_with(RunUnderTest& run, const std::string& hash) {
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash) << "the weights differ from the undisturbed run's";
}

/// Steps of runs in which something happens without a supervisor, so that it is not over before.
const std::vector<std::string> kLonger = {"train.steps=150"};
constexpr std::int64_t kLongerSteps = 150;

}  // namespace

TEST(KilledRun, OfWhichAWorkerDiesEndsWithTheUndisturbedWeights) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape);
    run.start();
    wait_for_random_moment(run, choices, RunUnderTest::kSteps - 5);
    kill_one(run.workers(), choices);
    expect_done_with(run, hash);
  });
}

TEST(KilledRun, OfWhichTwoWorkersDieAtOnceEndsWithTheUndisturbedWeights) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape);
    run.start();
    wait_for_random_moment(run, choices, RunUnderTest::kSteps - 5);
    std::vector<RunProcess> victims = run.workers();
    while (victims.size() > 2)
      victims.erase(victims.begin() +
                    choices.between(0, static_cast<std::int64_t>(victims.size()) - 1));
    for (const RunProcess& victim : victims) ::kill(victim.pid, SIGKILL);
    expect_done_with(run, hash);
  });
}

TEST(KilledRun, OfWhichAWorkerWithAnOptimizerShardDiesEndsWithTheUndisturbedWeights) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);  // of a run that does not shard
    RunUnderTest run(shape, {"layout.zero=1"});
    run.start();
    wait_for_random_moment(run, choices, RunUnderTest::kSteps - 5);
    kill_one(run.workers(), choices);
    expect_done_with(run, hash);
    EXPECT_NE(run.output().find("ZeRO-1"), std::string::npos) << run.output();
  });
}

TEST(KilledRun, OfWhichAWorkerDiesDuringRecoveryEndsWithTheUndisturbedWeights) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape);
    run.start();
    run.wait_for_step(choices.between(1, RunUnderTest::kSteps - 5));
    std::set<pid_t> first;
    for (const RunProcess& w : run.workers()) first.insert(w.pid);
    kill_one(run.workers(), choices);
    // The new process is there: the recovery is under way.
    const bool replaced = eventually(seconds(30), [&] {
      const std::vector<RunProcess> now = run.workers();
      return !run.supervisor_runs() || std::any_of(now.begin(), now.end(), [&](const auto& w) {
        return !first.contains(w.pid);
      });
    });
    EXPECT_TRUE(replaced) << "no new worker was started";
    sleep_for(choices.up_to(milliseconds(200)));
    kill_one(run.workers(), choices);
    expect_done_with(run, hash);
  });
}

TEST(KilledRun, OfWhichAnAgentDiesEndsWithTheUndisturbedWeights) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape);
    run.start();
    wait_for_random_moment(run, choices, RunUnderTest::kSteps - 5);
    kill_one(run.agents(), choices);
    expect_done_with(run, hash);
  });
}

TEST(KilledRun, OfWhichEverythingDiesEndsWithTheUndisturbedWeightsWhenResumed) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape);
    run.start();
    run.wait_for_step(choices.between(1, RunUnderTest::kSteps - 5));
    sleep_for(choices.up_to(milliseconds(30)));
    run.kill_everything();
    EXPECT_EQ(run.wait(), Ended({-1, SIGKILL}));
    EXPECT_TRUE(eventually(seconds(10), [&] { return run.processes().empty(); }));
    run.resume();
    expect_done_with(run, hash);
  });
}

TEST(KilledRun, OfWhichTheSupervisorDiesGoesOnWithTheSameWorkersWhenResumed) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape, kLonger);
    RunUnderTest run(shape, kLonger);
    run.start();
    const std::int64_t killed_after = choices.between(1, 40);
    run.wait_for_step(killed_after);
    const auto pids = [&run] {
      std::set<pid_t> set;
      for (const RunProcess& w : run.workers()) set.insert(w.pid);
      return set;
    };
    const std::set<pid_t> before = pids();
    ::kill(run.supervisor(), SIGKILL);
    EXPECT_EQ(run.wait(), Ended({-1, SIGKILL}));
    sleep_for(choices.up_to(milliseconds(500)));
    EXPECT_EQ(pids(), before) << "the workers must outlive their supervisor";
    run.resume();
    EXPECT_TRUE(run.wait_for_step(killed_after + 30)) << run.output();
    EXPECT_EQ(pids(), before) << "the workers must be taken over, not replaced";
    expect_done_with(run, hash);
  });
}

TEST(KilledRun, WhoseWorkersFinishWithoutASupervisorEndsWhenResumed) {
  for_each_seed(kBudget, [](const Shape& shape, Choices& choices) {
    const std::string hash = undisturbed_hash(shape);
    RunUnderTest run(shape);
    run.start();
    run.wait_for_step(choices.between(RunUnderTest::kSteps - 10, RunUnderTest::kSteps - 2));
    ::kill(run.supervisor(), SIGKILL);
    run.wait();
    sleep_for(scaled(choices.up_to(milliseconds(1500))));
    run.resume();
    expect_done_with(run, hash);
  });
}

}  // namespace tenax::testing
