// A1: no handler of an actor blocks, while checkpoints are written and processes die.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/run_under_test.h"

namespace tenax::testing {

namespace {

/// A heartbeat's interval: what blocks no longer than that delays nobody. A handler that waited for
/// a worker, a collective or the store would take that and more.
double limit() {
  return std::chrono::duration<double>(scaled(std::chrono::milliseconds(250))).count();
}

/// The number after each `name` in `text`, the largest.
double largest(const std::string& text, const std::string& name) {
  double most = -1;
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1))
    most = std::max(most, std::strtod(text.c_str() + at + name.size(), nullptr));
  return most;
}

}  // namespace

TEST(Handlers, DoNotBlock) {
  RunUnderTest run(shapes().front(),
                   {"train.steps=300", "checkpoint.interval=5", "train.eval_interval=20"});
  run.start();
  ASSERT_TRUE(run.wait_for_step(40));
  ::kill(run.workers().front().pid, SIGKILL);
  ASSERT_TRUE(run.wait_for_step(100));
  ::kill(run.agents().front().pid, SIGKILL);
  ASSERT_TRUE(run.wait_for_step(160));
  const auto metrics = run.get("/metrics");
  ASSERT_TRUE(metrics);
  const double supervisor = largest(*metrics, "tenax_handler_seconds_max{run=\"under_test\"} ");
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();

  int logs = 0;
  double others = -1;
  for (const auto& file : std::filesystem::directory_iterator(run.directory() / "logs")) {
    std::ifstream in(file.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const double longest = largest(text, "longest handler: ");
    logs += longest >= 0 ? 1 : 0;
    others = std::max(others, longest);
  }
  EXPECT_EQ(logs, 5) << "the agent and four workers";
  EXPECT_GT(supervisor, 0);
  EXPECT_LT(supervisor, limit());
  EXPECT_LT(others, limit());
  std::printf("longest handlers: supervisor %.6f s, agent and workers %.6f s\n", supervisor,
              others);
}

}  // namespace tenax::testing
