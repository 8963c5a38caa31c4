#include "tools/trace_command.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace tenax::tools {
namespace {

using compute::TraceKind;
using nlohmann::json;

actors::TraceRecord record(std::uint32_t generation, std::int64_t step, TraceKind kind, int begin,
                           int end, int microbatch = -1) {
  actors::TraceRecord r;
  r.generation = generation;
  r.event.step = step;
  r.event.kind = kind;
  r.event.microbatch = microbatch;
  r.event.begin = Time(std::chrono::microseconds(begin));
  r.event.end = Time(std::chrono::microseconds(end));
  return r;
}

TEST(TraceJson, HasATrackForEachRankWithTheStepsLastGeneration) {
  std::map<int, std::vector<actors::TraceRecord>> ranks;
  ranks[0] = {record(1, 7, TraceKind::kForward, 10, 20, 0),
              record(2, 7, TraceKind::kForward, 100, 140, 3),
              record(2, 8, TraceKind::kForward, 200, 240, 0)};
  ranks[1] = {record(2, 7, TraceKind::kVerdict, 130, 150)};
  const json trace = json::parse(trace_json(ranks, 7));
  std::map<int, std::vector<json>> spans;
  std::map<int, std::string> names;
  for (const json& e : trace.at("traceEvents")) {
    if (e.at("ph") == "X") spans[e.at("tid").get<int>()].push_back(e);
    EXPECT_EQ(e.at("pid"), e.at("tid"));
    if (e.at("ph") == "M" && e.at("name") == "thread_name")
      names[e.at("tid").get<int>()] = e.at("args").at("name");
  }
  EXPECT_EQ(names, (std::map<int, std::string>{{0, "rank 0"}, {1, "rank 1"}}));
  ASSERT_EQ(spans[0].size(), 1u);
  EXPECT_EQ(spans[0][0].at("name"), "forward");
  EXPECT_EQ(spans[0][0].at("cat"), "compute");
  EXPECT_EQ(spans[0][0].at("args").at("microbatch"), 3);
  EXPECT_DOUBLE_EQ(spans[0][0].at("ts").get<double>(), 0);
  EXPECT_DOUBLE_EQ(spans[0][0].at("dur").get<double>(), 40);
  ASSERT_EQ(spans[1].size(), 1u);
  EXPECT_EQ(spans[1][0].at("name"), "verdict");
  EXPECT_DOUBLE_EQ(spans[1][0].at("ts").get<double>(), 30);
  EXPECT_FALSE(spans[1][0].at("args").contains("microbatch"));
}

TEST(TraceJson, ReductionsAndTransfersMayOverlapWithActionsInAnyWay) {
  std::map<int, std::vector<actors::TraceRecord>> ranks;
  ranks[3] = {record(1, 7, TraceKind::kReduce, 10, 50),
              record(1, 7, TraceKind::kBackward, 0, 30, 2), record(1, 7, TraceKind::kRecv, 12, 60)};
  ranks[3][0].event.index = 4;
  ranks[3][2].event.index = 1;
  ranks[3][2].event.bytes = 4096;
  const json trace = json::parse(trace_json(ranks, 7));
  std::map<std::string, std::vector<json>> phases;
  for (const json& e : trace.at("traceEvents")) phases[e.at("ph")].push_back(e);
  ASSERT_EQ(phases["X"].size(), 1u);
  ASSERT_EQ(phases["b"].size(), 2u);
  ASSERT_EQ(phases["e"].size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(phases["b"][i].at("id"), phases["e"][i].at("id"));
    EXPECT_EQ(phases["b"][i].at("name"), phases["e"][i].at("name"));
    EXPECT_EQ(phases["b"][i].at("cat"), phases["e"][i].at("cat"));
  }
  EXPECT_NE(phases["b"][0].at("id"), phases["b"][1].at("id"));
  EXPECT_EQ(phases["b"][0].at("args").at("bucket"), 4);
  EXPECT_DOUBLE_EQ(phases["b"][0].at("ts").get<double>(), 10);
  EXPECT_DOUBLE_EQ(phases["e"][0].at("ts").get<double>(), 50);
  EXPECT_EQ(phases["b"][1].at("args").at("peer"), 1);
  EXPECT_EQ(phases["b"][1].at("args").at("bytes"), 4096);
}

TEST(TraceCommand, SaysThatThereIsNoRun) {
  std::ostringstream out;
  std::ostringstream errors;
  TraceArguments arguments;
  arguments.run_dir = testing::TempDir() + "no_such_run";
  EXPECT_EQ(run_trace(arguments, out, errors), 3);
  EXPECT_NE(errors.str().find("not a run directory"), std::string::npos) << errors.str();
}

}  // namespace
}  // namespace tenax::tools
