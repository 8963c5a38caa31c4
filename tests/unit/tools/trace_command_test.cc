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
  ranks[1] = {record(2, 7, TraceKind::kReduce, 130, 150)};
  const json trace = json::parse(trace_json(ranks, 7));
  std::map<int, std::vector<json>> spans;
  std::map<int, std::string> names;
  for (const json& e : trace.at("traceEvents")) {
    if (e.at("ph") == "X") spans[e.at("tid").get<int>()].push_back(e);
    if (e.at("ph") == "M") names[e.at("tid").get<int>()] = e.at("args").at("name");
  }
  EXPECT_EQ(names, (std::map<int, std::string>{{0, "rank 0"}, {1, "rank 1"}}));
  ASSERT_EQ(spans[0].size(), 1u);
  EXPECT_EQ(spans[0][0].at("name"), "forward");
  EXPECT_EQ(spans[0][0].at("cat"), "compute");
  EXPECT_EQ(spans[0][0].at("args").at("microbatch"), 3);
  EXPECT_DOUBLE_EQ(spans[0][0].at("ts").get<double>(), 0);
  EXPECT_DOUBLE_EQ(spans[0][0].at("dur").get<double>(), 40);
  ASSERT_EQ(spans[1].size(), 1u);
  EXPECT_EQ(spans[1][0].at("name"), "reduce");
  EXPECT_DOUBLE_EQ(spans[1][0].at("ts").get<double>(), 30);
  EXPECT_FALSE(spans[1][0].at("args").contains("microbatch"));
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
