// Runs the published spike rules and the detector of scheduler/ over labelled loss curves and
// prints the tables of docs/loss-spikes.md, with the cost of one sample. Usage: spike_rules_bench
// FOLDER (with labels.json and the curves).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bench/spike_rules/published_rules.h"
#include "scheduler/spike_detector.h"
#include "tools/curve_reader.h"

namespace tenax::bench {
namespace {

using scheduler::MetricPoint;
using scheduler::SpikeAction;
using scheduler::SpikeEvent;
using scheduler::SpikeVerdict;

/// Fires on what the detector reports about the loss, or on its decisions to roll back.
class Ours : public SpikeRule {
 public:
  enum class Fires { kReport, kSpike, kRollBack };
  explicit Ours(Fires fires) : fires_(fires) {}
  bool observe(const MetricPoint& point) override {
    const std::vector<SpikeEvent> events = detector_.observe(point);
    return std::any_of(events.begin(), events.end(), [&](const SpikeEvent& event) {
      const bool rolls_back = event.action == SpikeAction::kRollBack;
      const bool spike = event.verdict == SpikeVerdict::kSpike || rolls_back;
      if (fires_ == Fires::kRollBack) return rolls_back;
      if (fires_ == Fires::kSpike) return spike;
      return spike || event.verdict == SpikeVerdict::kOutlier;
    });
  }

 private:
  Fires fires_;
  scheduler::SpikeDetector detector_{scheduler::SpikeOptions{}};
};

std::vector<NamedRule> all_rules() {
  std::vector<NamedRule> rules = published_rules();
  rules.push_back(
      {"**Tenax**: reported (outlier, spike)", std::make_unique<Ours>(Ours::Fires::kReport)});
  rules.push_back({"**Tenax**: spike", std::make_unique<Ours>(Ours::Fires::kSpike)});
  rules.push_back({"**Tenax**: decision to roll back (after 20 samples)",
                   std::make_unique<Ours>(Ours::Fires::kRollBack)});
  return rules;
}

/// A labelled event in sample numbers.
struct Label {
  std::int64_t start = 0;
  std::int64_t end = 0;
  std::string tier;
};

struct Curve {
  std::string group;
  std::vector<MetricPoint> points;
  std::vector<Label> labels;
};

std::string group_of(const std::string& name) {
  if (name.starts_with("mixtral")) return "mixtral";
  if (name.starts_with("nanogpt")) return "nanogpt";
  if (name.starts_with("algoperf")) return "algoperf";
  return "clean";
}

std::vector<Curve> read_curves(const std::filesystem::path& folder) {
  std::ifstream file(folder / "labels.json");
  const nlohmann::json labels = nlohmann::json::parse(file);
  std::vector<Curve> curves;
  for (const auto& [name, label] : labels.items()) {
    if (label["kind"] == "snippet") continue;
    auto points = tools::read_curve(folder / (name + ".csv"), {});
    if (!points) {
      std::cerr << points.error().message << '\n';
      continue;
    }
    Curve curve{group_of(name), *std::move(points), {}};
    std::map<std::int64_t, std::int64_t> sample_of;
    for (const MetricPoint& point : curve.points)
      sample_of[point.step] = static_cast<std::int64_t>(sample_of.size());
    for (const nlohmann::json& event : label["events"]) {
      const std::int64_t start = sample_of.at(event["start"]);
      const std::int64_t end = event["recovered"].is_null()
                                   ? static_cast<std::int64_t>(curve.points.size())
                                   : sample_of.at(event["recovered"]);
      curve.labels.push_back({start, end, event["tier"]});
    }
    curves.push_back(std::move(curve));
  }
  return curves;
}

/// Hits within 3 samples of a start, by tier; and clusters of alarms (10 samples apart) that belong
/// to no event. In `clean` and `nanogpt` nothing is an event: a one-sample outlier there needs
/// nothing done.
struct Tally {
  std::map<std::string, int> hits;
  int stray = 0;
};

void tally(const Curve& curve, const std::vector<std::int64_t>& alarms, Tally& sum) {
  constexpr std::int64_t kDelay = 3;
  constexpr std::int64_t kApart = 10;
  constexpr std::int64_t kAftermath = 30;
  const bool has_events = curve.group == "mixtral" || curve.group == "algoperf";
  for (const Label& label : curve.labels)
    sum.hits[label.tier] += std::any_of(alarms.begin(), alarms.end(), [&](std::int64_t alarm) {
      return alarm >= label.start && alarm <= label.start + kDelay;
    });
  std::int64_t last = -kApart;
  for (const std::int64_t alarm : alarms) {
    const bool labelled =
        has_events &&
        std::any_of(curve.labels.begin(), curve.labels.end(), [&](const Label& label) {
          return alarm >= label.start - kDelay && alarm <= label.end + kAftermath;
        });
    if (labelled) continue;
    if (alarm - last >= kApart) ++sum.stray;
    last = alarm;
  }
}

std::vector<std::int64_t> alarms_of(SpikeRule& rule, const std::vector<MetricPoint>& points) {
  std::vector<std::int64_t> alarms;
  for (std::size_t i = 0; i < points.size(); ++i)
    if (rule.observe(points[i])) alarms.push_back(static_cast<std::int64_t>(i));
  return alarms;
}

/// Median over passes of the mean cost of one sample over all curves.
double nanoseconds_a_sample(const std::vector<Curve>& curves, std::size_t rule_index) {
  constexpr int kPasses = 5;
  std::vector<double> costs;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::size_t num_samples = 0;
    std::chrono::steady_clock::duration total{};
    for (const Curve& curve : curves) {
      const std::unique_ptr<SpikeRule> rule = std::move(all_rules()[rule_index].rule);
      const auto begin = std::chrono::steady_clock::now();
      alarms_of(*rule, curve.points);
      total += std::chrono::steady_clock::now() - begin;
      num_samples += curve.points.size();
    }
    costs.push_back(std::chrono::duration<double, std::nano>(total).count() /
                    static_cast<double>(num_samples));
  }
  std::nth_element(costs.begin(), costs.begin() + kPasses / 2, costs.end());
  return costs[kPasses / 2];
}

int count_labels(const std::vector<Curve>& curves, const std::string& group,
                 const std::string& tier) {
  int count = 0;
  for (const Curve& curve : curves)
    for (const Label& label : curve.labels) count += curve.group == group && label.tier == tier;
  return count;
}

std::string name_of(std::size_t rule_index) { return all_rules()[rule_index].name; }

void print_reports(const std::vector<Curve>& curves) {
  std::map<std::string, std::size_t> samples;
  for (const Curve& curve : curves) samples[curve.group] += curve.points.size();
  fmt::print(
      "| rule fires within 3 samples of a labelled start; stray: clusters elsewhere | Mixtral "
      "major "
      "/{} | minor /{} | stray, Mixtral ({}) | stray, clean ({}) | stray, nanoGPT ({}) | AlgoPerf "
      "major /{} | stray, AlgoPerf ({}) | ns a sample |\n|---|---|---|---|---|---|---|---|---|\n",
      count_labels(curves, "mixtral", "major"), count_labels(curves, "mixtral", "minor"),
      samples["mixtral"], samples["clean"], samples["nanogpt"],
      count_labels(curves, "algoperf", "major"), samples["algoperf"]);
  const std::size_t num_rules = all_rules().size();
  for (std::size_t i = 0; i < num_rules; ++i) {
    std::map<std::string, Tally> sums;
    for (const Curve& curve : curves) {
      const std::unique_ptr<SpikeRule> rule = std::move(all_rules()[i].rule);
      tally(curve, alarms_of(*rule, curve.points), sums[curve.group]);
    }
    fmt::print("| {} | {} | {} | {} | {} | {} | {} | {} | {:.0f} |\n", name_of(i),
               sums["mixtral"].hits["major"], sums["mixtral"].hits["minor"], sums["mixtral"].stray,
               sums["clean"].stray, sums["nanogpt"].stray, sums["algoperf"].hits["major"],
               sums["algoperf"].stray, nanoseconds_a_sample(curves, i));
  }
}

/// Interruptions of the run if each alarm rolled it back, at most one in 50 samples; and, of the
/// spikes that last more than 20 samples, those with one within 25 samples of the start.
void print_rollbacks(const std::vector<Curve>& curves) {
  constexpr std::int64_t kApart = 50;
  constexpr std::int64_t kLasting = 20;
  constexpr std::int64_t kInTime = 25;
  std::string rows;
  int num_lasting = 0;
  for (std::size_t i = 0; i < all_rules().size(); ++i) {
    std::map<std::string, int> interruptions;
    int caught = 0;
    num_lasting = 0;
    for (const Curve& curve : curves) {
      const std::unique_ptr<SpikeRule> rule = std::move(all_rules()[i].rule);
      const std::vector<std::int64_t> alarms = alarms_of(*rule, curve.points);
      std::int64_t last = -kApart;
      for (const std::int64_t alarm : alarms) {
        if (alarm - last < kApart) continue;
        ++interruptions[curve.group];
        last = alarm;
      }
      for (const Label& label : curve.labels) {
        if (curve.group != "algoperf" || label.end - label.start <= kLasting) continue;
        ++num_lasting;
        caught += std::any_of(alarms.begin(), alarms.end(), [&](std::int64_t alarm) {
          return alarm >= label.start && alarm <= label.start + kInTime;
        });
      }
    }
    rows += fmt::format("| {} | {} | {} | {} | {} | {} |\n", name_of(i), interruptions["mixtral"],
                        interruptions["clean"], interruptions["nanogpt"], interruptions["algoperf"],
                        caught);
  }
  fmt::print(
      "| rollbacks if each alarm were one | Mixtral (all heal) | clean | nanoGPT | AlgoPerf | "
      "lasting "
      "spikes caught within 25 samples /{} |\n|---|---|---|---|---|---|\n{}",
      num_lasting, rows);
}

}  // namespace
}  // namespace tenax::bench

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: spike_rules_bench FOLDER, which holds labels.json and the curves\n";
    return 2;
  }
  try {
    const auto curves = tenax::bench::read_curves(argv[1]);
    tenax::bench::print_reports(curves);
    fmt::print("\n");
    tenax::bench::print_rollbacks(curves);
  } catch (const std::exception& error) {
    std::cerr << "spike_rules_bench: " << argv[1] << ": " << error.what() << '\n';
    return 1;
  }
  return 0;
}
