// T2 and T3: processes are killed while a run grows and shrinks.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <memory>

#include "tests/support/elastic_run.h"
#include "tests/support/run_history.h"
#include "tests/support/seeded_cases.h"

namespace tenax::testing {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kSteps = 250;
const std::vector<std::string> kOptions = {"train.steps=250", "checkpoint.interval=25"};
const Shape kTwo = {"2x1", 2, 1, 1, 2, 8};

/// A worker, now and then an agent, dies within a fifth of a second.
void kill_soon(const RunUnderTest& run, Choices& choices) {
  sleep_for(choices.up_to(milliseconds(200)));
  const std::vector<RunProcess> victims = choices.between(1, 4) == 1 ? run.agents() : run.workers();
  if (!victims.empty()) ::kill(choices.of(victims).pid, SIGKILL);
}

}  // namespace

TEST(KilledElasticRun, OfWhichProcessesDieWhileItIsScaledEndsWithTheUndisturbedWeights) {
  for_each_seed(seconds(4), [](const Shape&, Choices& choices) {
    RunUnderTest run(kTwo, kOptions);
    run.start();
    run.wait_for_step(choices.between(10, 60));
    for (const int workers : {3, 4, 2}) {
      // Refused while fewer are left than it takes, for the moment.
      run.tenax({"scale", run.directory().string(), "--workers", std::to_string(workers)});
      kill_soon(run, choices);
    }
    expect_end(run, kTwo, kOptions);
    expect_each_position_once(RunHistory(run), kSteps, kTwo.global_batch_size, {});
  });
}

TEST(KilledElasticRun, OfWhichProcessesDieWhileAnAgentJoinsAndLeavesEndsWithTheUndisturbedWeights) {
  for_each_seed(seconds(4), [](const Shape&, Choices& choices) {
    RunUnderTest run(kTwo, kOptions);
    run.start();
    run.wait_for_step(choices.between(10, 60));
    ChildProcess agent(
        {TENAX_PROGRAM, "agent", "--join", run.directory().string(), "--workers", "2"},
        run.folder() / "joined.out", run.folder());
    kill_soon(run, choices);
    sleep_for(choices.up_to(milliseconds(500)));
    agent.signal(choices.between(1, 2) == 1 ? SIGTERM : SIGKILL);
    kill_soon(run, choices);
    expect_end(run, kTwo, kOptions);
    expect_each_position_once(RunHistory(run), kSteps, kTwo.global_batch_size, {});
  });
}

}  // namespace tenax::testing
