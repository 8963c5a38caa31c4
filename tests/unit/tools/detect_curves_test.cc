// The detector on real training curves with labelled spikes: which it must report, which it must
// roll back, and which it must leave alone. The curves are not part of the source tree:
// TENAX_SHARED_DATA names their folder.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "scheduler/spike_detector.h"
#include "tools/curve_reader.h"

namespace tenax::tools {
namespace {

using scheduler::MetricPoint;
using scheduler::SpikeAction;
using scheduler::SpikeEvent;
using scheduler::SpikeVerdict;

namespace fs = std::filesystem;

/// One verdict, with steps as sample numbers.
struct Seen {
  std::int64_t sample = 0;
  std::int64_t onset = 0;
  SpikeEvent event;
};

class DetectCurves : public testing::Test {
 protected:
  void SetUp() override {
    const char* set = std::getenv("TENAX_SHARED_DATA");
    const fs::path data = set != nullptr ? set : TENAX_SOURCE_DIR "/../shared/data";
    folder_ = data / "loss_curves";
    std::ifstream file(folder_ / "labels.json");
    if (!file) GTEST_SKIP() << "no loss curves at " << folder_;
    labels_ = nlohmann::json::parse(file);
  }

  std::vector<std::string> names(std::string_view part) const {
    std::vector<std::string> found;
    for (const auto& [name, label] : labels_.items())
      if (name.find(part) != std::string::npos && label["kind"] != "snippet") found.push_back(name);
    return found;
  }

  std::vector<Seen> run(const std::string& name) {
    const auto points = read_curve(folder_ / (name + ".csv"), {});
    EXPECT_TRUE(points.has_value()) << name;
    samples_.clear();
    for (const MetricPoint& point : *points)
      samples_[point.step] = static_cast<std::int64_t>(samples_.size());
    scheduler::SpikeDetector detector({});
    std::vector<Seen> seen;
    for (const MetricPoint& point : *points)
      for (const SpikeEvent& event : detector.observe(point))
        seen.push_back({samples_.at(event.step), samples_.at(event.onset), event});
    return seen;
  }

  static bool is_rollback(const Seen& seen) { return seen.event.action == SpikeAction::kRollBack; }
  /// Says that there was a spike, not only that something looks odd.
  static bool is_report(const Seen& seen) {
    return seen.event.verdict != SpikeVerdict::kArmed &&
           seen.event.verdict != SpikeVerdict::kRecovered;
  }

  fs::path folder_;
  nlohmann::json labels_;
  std::map<std::int64_t, std::int64_t> samples_;  ///< of the curve run last: step -> sample
};

TEST_F(DetectCurves, NoCleanOrHeavyTailedRunIsRolledBack) {
  std::size_t num_curves = 0;
  for (const auto& [name, label] : labels_.items()) {
    if (!label["kind"].get<std::string>().starts_with("clean")) continue;
    ++num_curves;
    for (const Seen& seen : run(name))
      EXPECT_FALSE(is_rollback(seen))
          << name << " step " << seen.event.step << ": " << seen.event.reason;
  }
  EXPECT_GE(num_curves, 8U);
}

TEST_F(DetectCurves, SpikesThatHealAreReportedButAtMostOneIsRolledBack) {
  std::size_t num_rollbacks = 0;
  for (const std::string& name : names("mixtral")) {
    const std::vector<Seen> all = run(name);
    num_rollbacks +=
        static_cast<std::size_t>(std::count_if(all.begin(), all.end(), &DetectCurves::is_rollback));
    for (const nlohmann::json& spike : labels_[name]["events"]) {
      if (spike["tier"] != "major") continue;
      const std::int64_t start = samples_.at(spike["start"].get<std::int64_t>());
      const bool reported = std::any_of(all.begin(), all.end(), [&](const Seen& seen) {
        return is_report(seen) && seen.onset >= start - 1 && seen.sample >= start &&
               seen.sample <= start + 3;
      });
      EXPECT_TRUE(reported) << name << " step " << spike["start"];
    }
  }
  EXPECT_LE(num_rollbacks, 1U);
}

TEST_F(DetectCurves, EveryLastingSpikeIsRolledBackWithin25Samples) {
  std::size_t num_lasting = 0;
  for (const std::string& name : names("algoperf")) {
    const std::vector<Seen> all = run(name);
    for (const nlohmann::json& spike : labels_[name]["events"]) {
      const std::int64_t start = samples_.at(spike["start"].get<std::int64_t>());
      const bool lasting = spike["recovered"].is_null() ||
                           samples_.at(spike["recovered"].get<std::int64_t>()) - start > 20;
      if (!lasting) continue;
      ++num_lasting;
      const bool rolled_back = std::any_of(all.begin(), all.end(), [&](const Seen& seen) {
        return is_rollback(seen) && std::abs(seen.onset - start) <= 3 && seen.sample >= start &&
               seen.sample <= start + 25;
      });
      EXPECT_TRUE(rolled_back) << name << " step " << spike["start"];
    }
  }
  EXPECT_GE(num_lasting, 3U);
}

TEST_F(DetectCurves, APlannedReInitialisationIsSeenAtOnceAndNotRolledBackTwice) {
  const std::vector<Seen> all = run("algoperf_conformer_reinit");
  for (const std::int64_t step : {80000, 160000}) {
    const std::int64_t start = samples_.at(step);
    EXPECT_TRUE(std::any_of(all.begin(), all.end(), [&](const Seen& seen) {
      return is_report(seen) && seen.onset == start && seen.sample <= start + 2;
    })) << step;
    EXPECT_EQ(std::count_if(all.begin(), all.end(),
                            [&](const Seen& seen) {
                              return is_rollback(seen) && seen.sample >= start &&
                                     seen.sample < start + 700;
                            }),
              1)
        << step;
  }
}

TEST_F(DetectCurves, TheGradientNormArmsBeforeTheLossOfBloomAndOfThe104BRun) {
  struct Spliced {
    const char* name;
    std::int64_t armed_by;
    std::int64_t spike_by;
  };
  // The snippets are too short for a baseline: 200 quiet samples at their first loss and norm come
  // before.
  for (const Spliced& spliced : {Spliced{"bloom176b_snippet_31214", 31216, 31219},
                                 Spliced{"bigscience104b_snippet_11446", 11447, 11448}}) {
    const auto points = read_curve(folder_ / (std::string(spliced.name) + ".csv"), {});
    ASSERT_TRUE(points.has_value()) << spliced.name;
    const MetricPoint first = points->front();
    scheduler::SpikeDetector detector({});
    for (std::int64_t i = 0; i < 200; ++i) {
      MetricPoint quiet = first;
      quiet.step = first.step - 200 + i;
      quiet.loss += 0.01 * static_cast<double>(i % 5 - 2);
      EXPECT_TRUE(detector.observe(quiet).empty());
    }
    std::int64_t armed = 0;
    std::int64_t spike = 0;
    for (const MetricPoint& point : *points)
      for (const SpikeEvent& event : detector.observe(point)) {
        if (event.verdict == SpikeVerdict::kArmed && armed == 0) armed = event.step;
        if (event.verdict == SpikeVerdict::kSpike && spike == 0) spike = event.step;
        EXPECT_NE(event.action, SpikeAction::kRollBack) << event.reason;
      }
    EXPECT_GT(armed, 0) << spliced.name;
    EXPECT_LE(armed, spliced.armed_by) << spliced.name;
    EXPECT_GT(spike, 0) << spliced.name;
    EXPECT_LE(spike, spliced.spike_by) << spliced.name;
  }
}

}  // namespace
}  // namespace tenax::tools
