#include "tests/support/run_history.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "checkpoint/reader.h"
#include "checkpoint/store_reader.h"

using nlohmann::json;

namespace tenax::testing {

namespace {

/// A JSON number, or NaN for the words that stand for numbers which are not finite.
double number(const json& j) {
  return j.is_number() ? j.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

bool is_newer(const checkpoint::Manifest& a, const checkpoint::Manifest& b) {
  return std::pair(a.branch, a.step) > std::pair(b.branch, b.step);
}

std::vector<checkpoint::Manifest> manifests_of(const checkpoint::StoreReader& store) {
  std::vector<checkpoint::Manifest> all;
  const auto entries = store.manifests();
  EXPECT_TRUE(entries);
  if (!entries) return all;
  for (const checkpoint::ManifestEntry& e : *entries) {
    EXPECT_TRUE(e.manifest) << "checkpoint " << e.checkpoint_id;
    if (e.manifest) all.push_back(*e.manifest);
  }
  return all;
}

bool in_window(std::int64_t position, const std::vector<SkipWindow>& windows) {
  return std::any_of(windows.begin(), windows.end(),
                     [&](const SkipWindow& w) { return position >= w.begin && position < w.end; });
}

}  // namespace

RunHistory::RunHistory(const RunUnderTest& run) : journal_(run.json_lines("journal")) {
  const auto store = checkpoint::StoreReader::open_read_only(run.directory().string());
  EXPECT_TRUE(store) << store.error().message;
  if (!store) return;
  const std::vector<checkpoint::Manifest> manifests = manifests_of(**store);
  EXPECT_FALSE(manifests.empty());
  if (manifests.empty()) return;
  const auto& newest =
      *std::max_element(manifests.begin(), manifests.end(),
                        [](const auto& a, const auto& b) { return is_newer(b, a); });
  final_branch_ = newest.branch;
  skip_windows_ = newest.skip_windows;

  std::map<std::uint64_t, std::map<std::int64_t, Step>> by_branch;
  for (const json& row : run.json_lines("metrics")) {
    const auto [it, fresh] = by_branch[row.at("branch")].emplace(
        row.at("step"),
        Step{number(row.at("loss")), row.at("position_begin"), row.at("position_end")});
    EXPECT_TRUE(fresh) << "`tenax metrics` tells step " << it->first << " twice";
  }
  std::uint64_t branch = final_branch_;
  std::int64_t last = std::numeric_limits<std::int64_t>::max();
  while (true) {
    for (const auto& [step, facts] : by_branch[branch]) {
      if (step <= last) path_.emplace(step, facts);
    }
    const auto parent = std::find_if(newest.parents.begin(), newest.parents.end(),
                                     [&](const auto& p) { return p.branch == branch; });
    if (parent == newest.parents.end() || parent->parent == branch) break;
    last = std::min(last, parent->step);
    branch = parent->parent;
  }
  for (const json& entry : journal_) {
    if (entry.at("kind") != "StepReported") continue;
    const json& report = entry.at("event").at("report");
    if (report.at("update") != 0)
      skipped_updates_.emplace_back(report.at("branch"), report.at("step"));
  }
}

int RunHistory::count(const std::string& words) const {
  return static_cast<int>(std::count_if(journal_.begin(), journal_.end(), [&](const json& entry) {
    return entry.at("text").get<std::string>().find(words) != std::string::npos;
  }));
}

std::int64_t RunHistory::num_generations() const {
  std::int64_t newest = 0;
  for (const json& entry : journal_)
    newest = std::max(newest, entry.at("generation").get<std::int64_t>());
  return newest;
}

void expect_each_position_once(const RunHistory& history, std::int64_t steps,
                               std::int64_t global_batch_size,
                               const std::vector<SkipWindow>& windows) {
  ASSERT_EQ(static_cast<std::int64_t>(history.path().size()), steps);
  std::int64_t next = 0;
  std::int64_t expected_step = 1;
  for (const auto& [step, facts] : history.path()) {
    EXPECT_EQ(step, expected_step++);
    while (in_window(next, windows)) ++next;
    EXPECT_EQ(facts.position_begin, next) << "step " << step;
    std::int64_t trained = 0;
    for (std::int64_t p = facts.position_begin; p < facts.position_end; ++p)
      trained += in_window(p, windows) ? 0 : 1;
    EXPECT_EQ(trained, global_batch_size) << "step " << step;
    next = facts.position_end;
  }
  std::map<std::pair<std::uint64_t, std::int64_t>, json> first;
  for (const json& entry : history.journal()) {
    if (entry.at("kind") != "StepReported") continue;
    json report = entry.at("event").at("report");
    for (const char* timing : {"seconds", "snapshot_seconds"}) report.erase(timing);
    const std::pair<std::uint64_t, std::int64_t> key(report.at("branch"), report.at("step"));
    const auto [it, fresh] = first.emplace(key, report);
    if (fresh) continue;
    json before = it->second;
    // Another number of replicas shares the same samples otherwise; each replica's own loss with
    // it.
    if (before["replica_losses"].size() != report["replica_losses"].size()) {
      before.erase("replica_losses");
      report.erase("replica_losses");
    }
    EXPECT_EQ(before, report) << "a replayed step differs";
  }
}

void expect_checkpoints_sound_and_finite(const RunUnderTest& run) {
  for (const json& line : run.json_lines("checkpoint verify", {"--full"})) {
    EXPECT_TRUE(line.at("ok").get<bool>()) << line.dump();
  }
  const auto store = checkpoint::StoreReader::open_read_only(run.directory().string());
  ASSERT_TRUE(store) << store.error().message;
  for (checkpoint::Manifest& manifest : manifests_of(**store)) {
    const std::int64_t step = manifest.step;
    const checkpoint::CheckpointReader reader(**store, std::move(manifest));
    for (const checkpoint::TensorInfo& tensor : reader.tensors()) {
      std::int64_t volume = 1;
      for (const std::int64_t extent : tensor.shape) volume *= extent;
      std::vector<float> values(static_cast<std::size_t>(volume));
      const Box all{std::vector<std::int64_t>(tensor.shape.size(), 0), tensor.shape};
      const Status read = reader.read_box(tensor.kind, tensor.name, all, values);
      ASSERT_TRUE(read) << read.error().message;
      EXPECT_TRUE(
          std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }))
          << tensor.kind << " " << tensor.name << " of step " << step;
    }
  }
}

}  // namespace tenax::testing
