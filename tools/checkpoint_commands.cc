#include "tools/checkpoint_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/compare.h"
#include "checkpoint/reader.h"
#include "tools/command_errors.h"
#include "tools/run_checkpoints.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

using checkpoint::CheckpointReader;
using checkpoint::Manifest;
using checkpoint::TensorComparison;
using checkpoint::TensorInfo;
using checkpoint::TensorVerdict;

json describe(const Manifest& m) {
  std::set<std::string> writers;
  for (const auto& s : m.shards) writers.insert(s.writer);
  std::uint64_t file_bytes = 0;
  for (const auto& f : m.files) file_bytes += f.bytes;
  json skips = json::array();
  for (const SkipWindow& w : m.skip_windows) skips.push_back({w.begin, w.end});
  json changes = json::array();
  for (const auto& c : m.schedule_changes) {
    changes.push_back({{"setting", c.setting},
                       {"value", c.value},
                       {"first_step", c.first_step},
                       {"last_step", c.last_step}});
  }
  return {{"id", m.checkpoint_id},
          {"step", m.step},
          {"branch", m.branch},
          {"generation", m.generation},
          {"run_id", m.run_id},
          {"created", format_time(m.created)},
          {"layout", m.layout},
          {"arithmetic", m.arithmetic},
          {"position", m.sample_position},
          {"skip_windows", std::move(skips)},
          {"schedule_changes", std::move(changes)},
          {"bytes", checkpoint::total_bytes(m)},
          {"file_bytes", file_bytes},
          {"files", m.files.size()},
          {"shards", m.shards.size()},
          {"writers", writers},
          {"chunk_bytes", m.chunk_bytes},
          {"config_digest", m.config_digest.hex()},
          {"data_digest", m.data_digest.hex()}};
}

/// Shards of each tensor.
std::map<std::pair<std::string, std::string>, int> count_shards(const Manifest& m) {
  std::map<std::pair<std::string, std::string>, int> shards;
  for (const auto& s : m.shards) ++shards[{s.shard.kind, s.shard.name}];
  return shards;
}

void print_facts(const json& facts) {
  for (const auto& [key, value] : facts.items()) {
    if (value.is_array() && value.empty()) continue;
    fmt::print("{:<17} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

std::string label(const CheckpointName& name, std::int64_t step) {
  return fmt::format("{}:{}", name.run_dir.string(), step);
}

void print_comparison(const TensorComparison& c, bool as_json) {
  if (as_json) {
    fmt::print("{}\n",
               json{{"kind", c.kind},
                    {"name", c.name},
                    {"verdict", to_string(c.verdict)},
                    {"different_elements", c.num_different},
                    {"max_difference",
                     std::isfinite(c.max_difference) ? json(c.max_difference) : json("Infinity")}}
                   .dump());
    return;
  }
  fmt::print("{:<10} {:<44} {}", c.kind, c.name, to_string(c.verdict));
  if (c.verdict == TensorVerdict::kDifferent) {
    fmt::print(": {} elements, at most by {:.6g}", c.num_different, c.max_difference);
  }
  fmt::print("\n");
}

Result<int> diff(const DiffArguments& arguments) {
  const CheckpointName first = parse_checkpoint_name(arguments.first, {});
  const CheckpointName second = parse_checkpoint_name(arguments.second, first.run_dir);
  TENAX_TRY(const PinnedCheckpoint a, open_checkpoint(first.run_dir, first.step));
  TENAX_TRY(const PinnedCheckpoint b, open_checkpoint(second.run_dir, second.step));
  TENAX_TRY(const auto all,
            checkpoint::compare_tensors({*a.store, a.manifest}, {*b.store, b.manifest}));
  const auto equal = std::count_if(all.begin(), all.end(), [](const TensorComparison& c) {
    return c.verdict == TensorVerdict::kEqual;
  });
  for (const TensorComparison& c : all) {
    if (arguments.all || c.verdict != TensorVerdict::kEqual) print_comparison(c, arguments.json);
  }
  if (!arguments.json) {
    fmt::print("{} and {}: {} of {} tensors are equal\n", label(first, a.manifest.step),
               label(second, b.manifest.step), equal, all.size());
  }
  return equal == static_cast<std::ptrdiff_t>(all.size()) ? 0 : 1;
}

}  // namespace

int run_checkpoint_show(const ShowArguments& arguments) {
  const auto opened = open_checkpoint(arguments.run_dir, arguments.step);
  if (!opened) return report_error(opened.error());
  const Manifest& manifest = opened->manifest;
  json facts = describe(manifest);
  const CheckpointReader reader(*opened->store, manifest);
  const auto shards = count_shards(manifest);
  if (arguments.json) {
    if (arguments.tensors) {
      for (const TensorInfo& t : reader.tensors()) {
        facts["tensors"].push_back({{"kind", t.kind},
                                    {"name", t.name},
                                    {"dtype", "float32"},
                                    {"shape", t.shape},
                                    {"shards", shards.at({t.kind, t.name})}});
      }
    }
    fmt::print("{}\n", facts.dump());
    return 0;
  }
  print_facts(facts);
  if (!arguments.tensors) return 0;
  for (const TensorInfo& t : reader.tensors()) {
    fmt::print("{:<10} {:<44} [{}]  {} shard{}\n", t.kind, t.name, fmt::join(t.shape, ", "),
               shards.at({t.kind, t.name}), shards.at({t.kind, t.name}) == 1 ? "" : "s");
  }
  return 0;
}

CheckpointName parse_checkpoint_name(const std::string& text,
                                     const std::filesystem::path& same_run) {
  const auto is_step = [](std::string_view part) {
    return !part.empty() && part.size() < 19 &&
           part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  if (!same_run.empty() && is_step(text)) return {same_run, std::stoll(text)};
  const std::size_t colon = text.rfind(':');
  if (colon != std::string::npos && colon > 0 && is_step(text.substr(colon + 1))) {
    return {text.substr(0, colon), std::stoll(text.substr(colon + 1))};
  }
  return {text, -1};
}

int run_checkpoint_diff(const DiffArguments& arguments) {
  const auto result = diff(arguments);
  return result ? *result : report_error(result.error());
}

}  // namespace tenax::tools
