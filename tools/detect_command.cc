#include "tools/detect_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <type_traits>
#include <utility>

#include "configs/run_config.h"
#include "scheduler/exit_code.h"
#include "scheduler/spike_detector.h"
#include "scheduler/spike_ladder.h"
#include "tools/curve_plot.h"

namespace tenax::tools {
namespace {

using scheduler::ContextChange;
using scheduler::MetricPoint;
using scheduler::SpikeAction;
using scheduler::SpikeDetector;
using scheduler::SpikeEvent;
using scheduler::SpikeOptions;

template <class T>
bool parse_whole(std::string_view text, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    value = text == "true" || text == "1";
    return value || text == "false" || text == "0";
  } else {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size();
  }
}

/// Ramps and planned changes in the order of their steps.
Result<std::vector<ContextChange>> announced_changes(const DetectArguments& arguments) {
  std::vector<ContextChange> changes;
  for (const std::string& text : arguments.ramps) {
    const std::size_t colon = std::min(text.find(':'), text.size());
    const std::string_view view = text;
    ContextChange change;
    change.kind = ContextChange::Kind::kLearningRateRamp;
    if (colon == text.size() || !parse_whole(view.substr(0, colon), change.step) ||
        !parse_whole(view.substr(colon + 1), change.until_step) || change.until_step < change.step)
      return make_error(ErrorCode::kInvalidArgument,
                        fmt::format("a ramp is first:last in steps, not \"{}\"", text));
    changes.push_back(change);
  }
  for (const std::int64_t step : arguments.changes)
    changes.push_back({ContextChange::Kind::kPlannedChange, step + 1, 0});
  std::sort(changes.begin(), changes.end(),
            [](const ContextChange& a, const ContextChange& b) { return a.step < b.step; });
  return changes;
}

std::vector<SpikeEvent> detect(const std::vector<MetricPoint>& points,
                               const std::vector<ContextChange>& context,
                               const SpikeOptions& options) {
  SpikeDetector detector(options);
  std::vector<SpikeEvent> events;
  std::size_t next_change = 0;
  bool first = true;
  std::int64_t last_step = 0;
  for (const MetricPoint& point : points) {
    for (; next_change < context.size() && context[next_change].step <= point.step; ++next_change)
      detector.note_context_change(context[next_change]);
    // The run went back by itself: a restart that the log shows.
    if (!first && point.step < last_step)
      detector.note_context_change({ContextChange::Kind::kRollback, point.step - 1, 0});
    first = false;
    last_step = point.step;
    for (SpikeEvent& event : detector.observe(point)) events.push_back(std::move(event));
  }
  return events;
}

std::string json_line(const SpikeEvent& event) {
  nlohmann::ordered_json line;
  line["step"] = event.step;
  line["onset"] = event.onset;
  line["verdict"] = to_string(event.verdict);
  line["loss"] = event.loss;
  line["baseline"] = event.baseline;
  line["score"] = event.score;
  line["action"] = to_string(event.action);
  line["reason"] = event.reason;
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string text_line(const SpikeEvent& event) {
  return fmt::format("step {:>8}  {:<16} {:<12} {}", event.step, to_string(event.verdict),
                     to_string(event.action), event.reason);
}

void print_text(const std::vector<MetricPoint>& points, const std::vector<SpikeEvent>& events,
                const SpikeOptions& options, std::ostream& out) {
  std::map<std::string_view, int> counts;
  for (const SpikeEvent& event : events) {
    ++counts[to_string(event.verdict)];
    out << text_line(event) << '\n';
    if (event.action != SpikeAction::kRollBack) continue;
    out << "               -> " << climb(event, {}, options).reason << '\n';
  }
  out << fmt::format("{} points, steps {} to {}", points.size(), points.front().step,
                     points.back().step);
  for (const auto& [verdict, count] : counts) out << fmt::format(", {} {}", count, verdict);
  out << '\n';
}

int refuse(const Error& error, int exit_code, std::ostream& err) {
  err << "tenax detect: " << error.message << '\n';
  return exit_code;
}

}  // namespace

Result<SpikeOptions> apply_settings(SpikeOptions options,
                                    const std::vector<std::string>& settings) {
  for (const std::string& setting : settings) {
    const std::size_t equals = std::min(setting.find('='), setting.size());
    const std::string_view key = std::string_view(setting).substr(0, equals);
    const std::string_view text =
        std::string_view(setting).substr(std::min(equals + 1, setting.size()));
    bool known = false;
    bool parsed = false;
    std::string names;
    for_each_spike_option(options, [&](std::string_view name, auto& member) {
      names += (names.empty() ? "" : ", ") + std::string(name);
      if (name != key) return;
      known = true;
      parsed = parse_whole(text, member);
    });
    if (!known)
      return make_error(ErrorCode::kInvalidArgument,
                        fmt::format("no option \"{}\"; the options are: {}", key, names));
    if (!parsed)
      return make_error(ErrorCode::kInvalidArgument,
                        fmt::format("\"{}\" is no value for {}", text, key));
  }
  TENAX_RETURN_IF_ERROR(scheduler::validate(options));
  return options;
}

int run_detect(const DetectArguments& arguments, std::ostream& out, std::ostream& err) {
  SpikeOptions base;
  if (!arguments.config.empty()) {
    const auto config = configs::load_run_config(arguments.config, {});
    if (!config) return refuse(config.error(), scheduler::kExitConfig, err);
    base = config->spikes;
  }
  const auto options = apply_settings(base, arguments.settings);
  if (!options) return refuse(options.error(), scheduler::kExitUsage, err);
  auto context = announced_changes(arguments);
  if (!context) return refuse(context.error(), scheduler::kExitUsage, err);
  const auto points = read_curve(arguments.curve, arguments.columns);
  if (!points) return refuse(points.error(), scheduler::kExitConfig, err);

  const std::vector<SpikeEvent> events = detect(*points, *context, *options);
  if (arguments.output == DetectOutput::kText) {
    print_text(*points, events, *options, out);
  } else {
    for (const SpikeEvent& event : events) out << json_line(event) << '\n';
  }
  if (arguments.plot.empty()) return 0;
  std::ofstream plot(arguments.plot);
  plot << plot_curve(arguments.curve.filename().string(), *points, events);
  plot.close();
  if (!plot)
    return refuse(
        make_error(ErrorCode::kIo, fmt::format("cannot write {}", arguments.plot.string())),
        scheduler::kExitStore, err);
  return 0;
}

}  // namespace tenax::tools
