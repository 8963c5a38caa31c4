#include "scheduler/straggler.h"

#include <fmt/format.h>

#include <algorithm>

#include "scheduler/layout.h"

namespace tenax::scheduler {

namespace {

constexpr std::int64_t kWarmupSteps = 20;
constexpr double kBegins = 1.5;
constexpr double kEnds = 1.25;
constexpr double kLeastSeconds = 0.002;

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  // The lower of two: one of two peers must be able to stand out.
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::map<int, StragglerScore> straggler_scores(const Degrees& degrees,
                                               const std::map<int, RankPace>& paces,
                                               const std::map<int, bool>& before) {
  std::map<int, StragglerScore> scores;
  for (const auto& [rank, pace] : paces) {
    if (rank < 0 || rank >= degrees.world_size()) continue;
    std::vector<double> peers;
    for (const auto& [other, its] : paces) {
      if (other == rank || other < 0 || other >= degrees.world_size()) continue;
      const bool same_stage = coordinates_of(degrees, other).pp == coordinates_of(degrees, rank).pp;
      if (same_stage || degrees.dp * degrees.tp == 1) peers.push_back(its.busy_seconds);
    }
    StragglerScore& s = scores[rank];
    if (pace.steps < kWarmupSteps || pace.busy_seconds <= 0) continue;
    const double peer = median_of(peers);
    const auto against = [&](double reference) {
      return reference > 0 && pace.busy_seconds - reference >= kLeastSeconds
                 ? pace.busy_seconds / reference
                 : 1.0;
    };
    s.against_peers = against(peer);
    s.against_past = against(pace.past_seconds);
    const auto was = before.find(rank);
    s.straggles = s.score() >= (was != before.end() && was->second ? kEnds : kBegins);
    s.text = fmt::format(
        "rank {} needs {:.1f} ms of a step for itself, its peers {:.1f} ms, its own past {:.1f} ms",
        rank, 1e3 * pace.busy_seconds, 1e3 * peer, 1e3 * pace.past_seconds);
  }
  return scores;
}

}  // namespace tenax::scheduler
