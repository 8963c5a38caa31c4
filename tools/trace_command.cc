#include "tools/trace_command.h"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <ostream>

#include "actors/run_directory.h"
#include "scheduler/exit_code.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

using Ranks = std::map<int, std::vector<actors::TraceRecord>>;

double microseconds(Time t, Time origin) {
  return static_cast<double>((t - origin).count()) * 1e-3;
}

Result<Ranks> read_ranks(const actors::RunDirectory& directory) {
  TENAX_TRY([[maybe_unused]] const auto identity, directory.identity());
  Ranks ranks;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(directory.traces(), ec)) {
    const std::string name = entry.path().stem().string();
    int rank = 0;
    constexpr std::string_view kPrefix = "rank-";
    if (!name.starts_with(kPrefix)) continue;
    const auto parsed =
        std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), rank);
    if (parsed.ec != std::errc{}) continue;
    TENAX_TRY(ranks[rank], actors::read_trace(entry.path()));
  }
  if (ranks.empty()) {
    return make_error(
        ErrorCode::kNotFound,
        fmt::format("{} has no traces: no worker has made a step", directory.path().string()));
  }
  return ranks;
}

/// The newest step of which every rank of the newest generation has events.
std::int64_t newest_step(const Ranks& ranks) {
  std::uint32_t generation = 0;
  for (const auto& [rank, records] : ranks)
    for (const actors::TraceRecord& r : records) generation = std::max(generation, r.generation);
  std::int64_t newest = std::numeric_limits<std::int64_t>::max();
  for (const auto& [rank, records] : ranks) {
    std::int64_t last = 0;
    for (const actors::TraceRecord& r : records)
      if (r.generation == generation) last = std::max(last, r.event.step);
    if (last > 0) newest = std::min(newest, last);
  }
  return newest;
}

}  // namespace

std::string trace_json(const Ranks& ranks, std::int64_t step) {
  std::uint32_t generation = 0;
  Time origin = Time::max();
  const auto for_each = [&](auto f) {
    for (const auto& [rank, records] : ranks)
      for (const actors::TraceRecord& r : records)
        if (r.event.step == step) f(rank, r);
  };
  for_each(
      [&](int, const actors::TraceRecord& r) { generation = std::max(generation, r.generation); });
  for_each([&](int, const actors::TraceRecord& r) {
    if (r.generation == generation) origin = std::min(origin, r.event.begin);
  });
  json events = json::array();
  std::map<int, int> counts;
  std::int64_t last_id = 0;
  for_each([&](int rank, const actors::TraceRecord& r) {
    if (r.generation != generation) return;
    ++counts[rank];
    const compute::TraceEvent& e = r.event;
    json args = {{"step", step}};
    if (e.microbatch >= 0) args["microbatch"] = e.microbatch;
    if (e.index >= 0) args[std::string(compute::index_name(e.kind))] = e.index;
    if (e.bytes > 0) args["bytes"] = e.bytes;
    json event = {{"name", compute::to_string(e.kind)},
                  {"cat", compute::category_of(e.kind)},
                  {"ph", "X"},
                  {"ts", microseconds(e.begin, origin)},
                  {"pid", rank},
                  {"tid", rank},
                  {"args", std::move(args)}};
    if (!compute::is_in_background(e.kind)) {
      event["dur"] = microseconds(e.end, e.begin);
      events.push_back(std::move(event));
      return;
    }
    // Such spans may overlap in any way: asynchronous events, each with a beginning and an end.
    event["ph"] = "b";
    event["id"] = ++last_id;
    json end = event;
    end["ph"] = "e";
    end["ts"] = microseconds(e.end, origin);
    events.push_back(std::move(event));
    events.push_back(std::move(end));
  });
  for (const auto& [rank, count] : counts) {
    for (const std::string_view name : {"process_name", "thread_name"})
      events.push_back({{"name", name},
                        {"ph", "M"},
                        {"pid", rank},
                        {"tid", rank},
                        {"args", {{"name", fmt::format("rank {}", rank)}}}});
  }
  return json{{"traceEvents", std::move(events)}, {"displayTimeUnit", "ms"}}.dump();
}

int run_trace(const TraceArguments& arguments, std::ostream& out, std::ostream& errors) {
  const actors::RunDirectory directory(arguments.run_dir);
  const auto ranks = read_ranks(directory);
  if (!ranks) {
    fmt::print(errors, "tenax: {}\n", ranks.error().message);
    return ranks.error().code == ErrorCode::kNotFound ? scheduler::kExitConfig
                                                      : scheduler::kExitStore;
  }
  const std::int64_t step = arguments.step > 0 ? arguments.step : newest_step(*ranks);
  std::int64_t oldest = std::numeric_limits<std::int64_t>::max();
  std::int64_t newest = 0;
  bool found = false;
  for (const auto& [rank, records] : *ranks) {
    for (const actors::TraceRecord& r : records) {
      oldest = std::min(oldest, r.event.step);
      newest = std::max(newest, r.event.step);
      found |= r.event.step == step;
    }
  }
  if (!found) {
    fmt::print(errors, "tenax: {} has no trace of step {}; it keeps steps {} to {}\n",
               directory.path().string(), step, oldest, newest);
    return scheduler::kExitConfig;
  }
  const std::string text = trace_json(*ranks, step);
  if (arguments.output.empty()) {
    out << text << '\n';
    return scheduler::kExitDone;
  }
  std::ofstream file(arguments.output);
  file << text << '\n';
  file.flush();
  if (!file) {
    fmt::print(errors, "tenax: cannot write {}\n", arguments.output.string());
    return scheduler::kExitStore;
  }
  fmt::print(out, "step {} of {} ranks in {}: open it in chrome://tracing or ui.perfetto.dev\n",
             step, ranks->size(), arguments.output.string());
  return scheduler::kExitDone;
}

}  // namespace tenax::tools
