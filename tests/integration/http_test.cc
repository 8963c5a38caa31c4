// The supervisor's HTTP server during a run.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
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

TEST(RunOverHttp, StatusNamesTheLayoutAndWhereTheRunCanBeReached) {
  RunUnderTest run(shapes().front(), {"train.steps=400", "layout.spares=1"});
  run.start();
  ASSERT_TRUE(run.wait_for_step(3));
  const nlohmann::json state = run.json_lines("status").at(0);
  EXPECT_EQ(state.at("layout"), nlohmann::json({{"dp", 2}, {"tp", 1}, {"pp", 2}}));
  EXPECT_EQ(state.at("spares").size(), 1u);
  EXPECT_EQ(state.at("agents").at(0).at("ranks"), 4);
  EXPECT_EQ(state.at("agents").at(0).at("spares"), 1);
  std::ifstream file(run.directory() / "supervisor.json");
  const nlohmann::json address = nlohmann::json::parse(file);
  const nlohmann::json& shown = state.at("supervisor");
  EXPECT_EQ(shown.at("control"), address.at("endpoint"));
  EXPECT_EQ(shown.at("dashboard"), address.at("dashboard_url"));
  EXPECT_FALSE(shown.contains("control_token"));

  const CommandResult words = run.tenax({"status", run.directory().string()});
  EXPECT_EQ(words.ended, Ended({0, 0}));
  for (const std::string& expected :
       {std::string("dp 2 x pp 2, 1 spare"), address.at("endpoint").get<std::string>(),
        address.at("dashboard_url").get<std::string>()}) {
    EXPECT_NE(words.output.find(expected), std::string::npos) << expected << "\n" << words.output;
  }
}

TEST(RunOverHttp, StatusOfARunWithoutAPageSaysThatItRuns) {
  RunUnderTest run(shapes().front(), {"train.steps=400", "dashboard.enabled=false"});
  run.start();
  nlohmann::json state;
  for (int i = 0; i < 200 && (state.is_null() || state["step"] < 1); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const CommandResult answer = run.tenax({"status", run.directory().string(), "--json"});
    if (answer.ended == Ended({0, 0})) state = nlohmann::json::parse(answer.output, nullptr, false);
  }
  ASSERT_TRUE(state.is_object());
  EXPECT_EQ(state.at("phase"), "running");
  EXPECT_TRUE(state.at("supervisor").at("dashboard").is_null());
  EXPECT_TRUE(state.at("supervisor").at("control").is_string());
}

}  // namespace tenax::testing
