// The supervisor's HTTP server during a run.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/support/run_under_test.h"

namespace tenax::testing {

bool all_train(const nlohmann::json& state) {
  if (state.is_null()) return false;
  for (const nlohmann::json& rank : state.at("ranks")) {
    if (rank.at("state") != "training") return false;
  }
  return true;
}

TEST(RunOverHttp, StateMetricsAndHealthAnswer) {
  RunUnderTest run(shapes().front(), {"train.steps=400"});
  run.start();
  ASSERT_TRUE(run.wait_for_step(3));
  EXPECT_TRUE(run.get("/healthz"));

  // A step may be shown before the last rank's word that it trains has come.
  nlohmann::json state = run.state();
  for (int i = 0; i < 100 && !all_train(state); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    state = run.state();
  }
  ASSERT_FALSE(state.is_null());
  EXPECT_EQ(state.at("run").at("id"), run.id());
  EXPECT_EQ(state.at("run").at("pid"), run.supervisor());
  EXPECT_EQ(state.at("progress").at("total_steps"), 400);
  ASSERT_EQ(state.at("ranks").size(), 4u);
  const std::vector<RunProcess> workers = run.workers();
  for (std::size_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(state.at("ranks")[rank].at("pid"), workers.at(rank).pid);
    EXPECT_EQ(state.at("ranks")[rank].at("state"), "training");
  }

  const auto metrics = run.get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_NE(metrics->find("# TYPE tenax_train_step gauge"), std::string::npos) << *metrics;
  EXPECT_NE(metrics->find("tenax_train_total_steps{run=\"under_test\"} 400"), std::string::npos);

  const auto steps = run.get("/api/metrics");
  ASSERT_TRUE(steps);
  EXPECT_GE(nlohmann::json::parse(*steps).at("rows").size(), 3u);
  EXPECT_TRUE(run.get("/api/journal"));
  const auto page = run.get("/");
  ASSERT_TRUE(page);
  EXPECT_NE(page->find("<html"), std::string::npos);
}

}  // namespace tenax::testing
