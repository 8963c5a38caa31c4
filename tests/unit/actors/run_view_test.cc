// What the page and Prometheus are told of a run.
#include "actors/run_view.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "scheduler/run_json.h"
#include "tests/unit/actors/http_test_client.h"

namespace tenax::actors {
namespace {

using nlohmann::json;

/// A run of 2 x 2 on two agents, the second of which joined and holds a spare.
scheduler::RunState two_agents() {
  scheduler::RunState s;
  s.phase = scheduler::Phase::kRunning;
  s.total_steps = 100;
  s.counted_step = 7;
  s.degrees = {2, 1, 2};
  s.target = {3, 1, 2};
  s.agents.resize(2);
  s.agents[0].host = "left";
  s.agents[0].up = true;
  s.agents[0].restarts = 1;
  s.agents[1].host = "right";
  s.agents[1].up = true;
  s.agents[1].joined = true;
  for (int rank = 3; rank >= 0; --rank) {
    scheduler::Seat seat;
    seat.slot = static_cast<std::uint32_t>(rank);
    seat.rank = rank;
    seat.pid = static_cast<std::uint32_t>(100 + rank);
    seat.state = scheduler::SeatState::kTraining;
    s.seats.push_back(seat);
  }
  scheduler::Seat spare;
  spare.agent = 1;
  spare.pid = 200;
  spare.state = scheduler::SeatState::kFresh;
  s.seats.push_back(spare);
  scheduler::Seat retired = spare;
  retired.retired = true;
  s.seats.push_back(retired);
  return s;
}

scheduler::JournalEntry reported(std::uint64_t seq, std::uint64_t branch, std::int64_t step,
                                 double loss) {
  scheduler::JournalEntry entry;
  entry.seq = seq;
  entry.generation = 1;
  scheduler::StepReported event;
  event.generation = 1;
  event.report.branch = branch;
  event.report.step = step;
  event.report.loss = loss;
  event.report.seconds = 1;
  entry.event = event;
  return entry;
}

RunFacts facts() {
  RunFacts f;
  f.flops_per_token = 10;
  f.peak = {50, 0};
  f.id = "r";
  f.name = "run";
  return f;
}

ActorInfo worker(std::uint64_t id, const std::string& name, const std::string& state,
                 std::int64_t pid) {
  ActorInfo info;
  info.id = id;
  info.kind = "worker_proxy";
  info.name = name;
  info.state = state;
  info.detail = "as noted";
  info.pid = pid;
  return info;
}

class RunViewTest : public ::testing::Test {
 protected:
  void record(const scheduler::JournalEntry& entry, HttpServer* http = nullptr) {
    view_.record(entry, scheduler::to_json(entry), http);
  }
  json state() const { return json::parse(view_.state_json()); }
  std::vector<std::uint64_t> kept() const {
    std::vector<std::uint64_t> seqs;
    const json journal = json::parse(view_.journal_json(0));
    for (const json& e : journal.at("entries")) seqs.push_back(e.at("seq"));
    return seqs;
  }

  const SystemClock clock_;
  ActorRegistry registry_;
  RunView view_{facts(), clock_, registry_};
};

TEST_F(RunViewTest, ShowsTheLayoutThatIsAndTheOneWanted) {
  view_.show(two_agents(), nullptr);
  const json j = state();
  EXPECT_EQ(j.at("layout"), json({{"dp", 2}, {"tp", 1}, {"pp", 2}}));
  EXPECT_EQ(j.at("target"), json({{"dp", 3}, {"tp", 1}, {"pp", 2}}));
  EXPECT_EQ(j.at("world_size"), 4);
}

TEST_F(RunViewTest, RanksAreInOrderWithTheirScoresAndSparesApart) {
  view_.show(two_agents(), nullptr);
  scheduler::StragglerScore slow;
  slow.against_peers = 1.75;
  slow.straggles = true;
  view_.set_scores({{2, slow}});
  const json j = state();
  ASSERT_EQ(j.at("ranks").size(), 4u);
  for (int rank = 0; rank < 4; ++rank) {
    const json& r = j.at("ranks")[static_cast<std::size_t>(rank)];
    EXPECT_EQ(r.at("rank"), rank);
    EXPECT_EQ(r.at("straggles"), rank == 2);
  }
  EXPECT_EQ(j.at("ranks")[2].at("straggler_score"), 1.75);
  EXPECT_TRUE(j.at("ranks")[1].at("straggler_score").is_null());
  ASSERT_EQ(j.at("spares").size(), 1u);
  EXPECT_EQ(j.at("spares")[0].at("pid"), 200);
}

TEST_F(RunViewTest, AgentsHaveTheirStateAndHowManyWorkTheyHold) {
  scheduler::RunState s = two_agents();
  view_.show(s, nullptr);
  json agents = state().at("agents");
  EXPECT_EQ(agents[0].at("host"), "left");
  EXPECT_EQ(agents[0].at("state"), "up");
  EXPECT_EQ(agents[0].at("ranks"), 4);
  EXPECT_EQ(agents[0].at("spares"), 0);
  EXPECT_EQ(agents[0].at("restarts"), 1);
  EXPECT_EQ(agents[1].at("joined"), true);
  EXPECT_EQ(agents[1].at("ranks"), 0);
  EXPECT_EQ(agents[1].at("spares"), 1);

  s.agents[0].draining = true;
  s.agents[1].excluded_until = clock_.now();
  view_.show(s, nullptr);
  agents = state().at("agents");
  EXPECT_EQ(agents[0].at("state"), "draining");
  EXPECT_EQ(agents[1].at("state"), "excluded");
  EXPECT_TRUE(agents[1].at("excluded_until").is_string());
}

TEST_F(RunViewTest, AWorkerWithoutARankIsASpareInTheTree) {
  registry_.put(worker(5, "worker 1.0", "stopped", 200));
  registry_.put(worker(6, "worker 0.0", "training", 100));
  view_.show(two_agents(), nullptr);
  const json actors = state().at("actors");
  EXPECT_EQ(actors[0].at("state"), "up");
  EXPECT_EQ(actors[0].at("detail"), "spare");
  EXPECT_EQ(actors[1].at("state"), "training");
  EXPECT_EQ(actors[1].at("detail"), "as noted");
}

TEST_F(RunViewTest, TheEventOfAStepNamesItsNumbersAsTheColumnsDo) {
  auto server = start_server({.heartbeat = 20ms});
  TestStream stream(*server);
  ASSERT_NE(stream.wait_for("event: hello"), "");
  record(reported(1, 0, 12, 2.5), server.get());
  const std::string text = stream.wait_for("event: journal");
  const std::size_t begin = text.find("event: step\ndata: ");
  ASSERT_NE(begin, std::string::npos) << text;
  const std::size_t data = begin + std::string("event: step\ndata: ").size();
  const json row = json::parse(text.substr(data, text.find('\n', data) - data));
  ASSERT_TRUE(row.is_object()) << row;
  EXPECT_EQ(row.at("step"), 12);
  EXPECT_EQ(row.at("loss"), 2.5);
  const json metrics = json::parse(view_.metrics_json(-1));
  EXPECT_EQ(row.size(), metrics.at("columns").size());
  for (std::size_t i = 0; i < row.size(); ++i)
    EXPECT_EQ(row.at(metrics.at("columns")[i].get<std::string>()), metrics.at("rows")[0][i]);
}

TEST_F(RunViewTest, AfterARollbackTheLossIsThatOfTheStepThatStays) {
  for (std::int64_t step = 1; step <= 9; ++step)
    record(reported(static_cast<std::uint64_t>(step), 0, step, static_cast<double>(step)));
  scheduler::RunState s = two_agents();
  s.branch = 1;
  view_.show(s, nullptr);
  EXPECT_EQ(view_.progress().loss, 7);
  record(reported(10, 1, 8, 80));
  s.counted_step = 8;
  view_.show(s, nullptr);
  EXPECT_EQ(view_.progress().loss, 80);
}

TEST_F(RunViewTest, MfuIsAShareOfWhatThePresentWorkersCan) {
  scheduler::JournalEntry entry = reported(1, 0, 7, 2.5);
  std::get<scheduler::StepReported>(entry.event).report.tokens = 5;
  view_.record(entry, scheduler::to_json(entry), nullptr);
  scheduler::RunState s = two_agents();
  view_.show(s, nullptr);
  EXPECT_DOUBLE_EQ(view_.progress().mfu, 5 * 10 / (4 * 50.0));
  s.degrees = {1, 1, 1};  // scaled down
  view_.show(s, nullptr);
  EXPECT_DOUBLE_EQ(view_.progress().mfu, 5 * 10 / 50.0);
}

TEST_F(RunViewTest, ATroubleWithAGpuIsShownWhereItIs) {
  scheduler::RunState s = two_agents();
  s.seats[1].device_trouble = "health: GPU 1 (X): 2 uncorrected memory errors";
  s.device_troubles = 1;
  const int rank = s.seats[1].rank;
  view_.show(s, nullptr);
  for (const json& r : state().at("ranks"))
    EXPECT_EQ(r.at("device_trouble").is_null(), r.at("rank") != rank);
  EXPECT_NE(view_.prometheus().find("tenax_device_troubles_total{run=\"run\"} 1"),
            std::string::npos);
}

TEST_F(RunViewTest, WhatIsToldIsKeptWhenStepsHavePushedEachOtherOut) {
  scheduler::JournalEntry told = reported(1, 0, 1, 1);
  told.commands.push_back(scheduler::Note{scheduler::Severity::kNotice, "the run starts"});
  record(told);
  for (std::uint64_t seq = 2; seq <= 3001; ++seq)
    record(reported(seq, 0, static_cast<std::int64_t>(seq), 1));
  const std::vector<std::uint64_t> seqs = kept();
  ASSERT_GT(seqs.size(), 2u);
  EXPECT_LT(seqs.size(), 3000u);
  EXPECT_EQ(seqs.front(), 1u);
  EXPECT_EQ(seqs.back(), 3001u);
  EXPECT_TRUE(std::is_sorted(seqs.begin(), seqs.end()));
  EXPECT_EQ(json::parse(view_.journal_json(2999)).at("entries").size(), 2u);
}

}  // namespace
}  // namespace tenax::actors
