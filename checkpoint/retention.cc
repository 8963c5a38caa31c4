#include "checkpoint/retention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <tuple>

namespace tenax::checkpoint {

namespace {

/// Newest first. Ids rise with time, so they order equal steps (a step redone on another branch).
std::vector<CheckpointInfo> current_newest_first(std::span<const CheckpointInfo> checkpoints) {
  std::vector<CheckpointInfo> current;
  for (const CheckpointInfo& c : checkpoints) {
    if (c.on_current_ancestry) current.push_back(c);
  }
  std::sort(current.begin(), current.end(), [](const CheckpointInfo& a, const CheckpointInfo& b) {
    return std::tie(a.step, a.id) > std::tie(b.step, b.id);
  });
  return current;
}

/// The newest, its predecessor, and then the ones closest to 3, 7, 15, ... times the distance
/// between those two. The farther of two equally close ones, so that a checkpoint that is kept
/// moves outwards until a successor is due.
std::vector<CheckpointInfo> at_growing_distances(const std::vector<CheckpointInfo>& verified,
                                                 std::size_t count) {
  std::vector<CheckpointInfo> chosen;
  std::size_t next = 0;
  while (chosen.size() < count && next < verified.size()) {
    std::size_t best = next;
    if (chosen.size() >= 2) {
      const std::int64_t newest = chosen[0].step;
      const std::int64_t unit = std::max<std::int64_t>(1, newest - chosen[1].step);
      const std::int64_t target =
          unit * ((std::int64_t{1} << std::min<std::size_t>(chosen.size(), 30)) - 1);
      std::int64_t best_error = std::numeric_limits<std::int64_t>::max();
      // Leave enough older ones to fill the count.
      const std::size_t needed_after = count - chosen.size() - 1;
      for (std::size_t i = next; i < verified.size(); ++i) {
        if (i > next && verified.size() - i - 1 < needed_after) break;
        const std::int64_t error = std::abs(newest - verified[i].step - target);
        if (error <= best_error) {
          best_error = error;
          best = i;
        }
      }
    }
    chosen.push_back(verified[best]);
    next = best + 1;
  }
  return chosen;
}

}  // namespace

RetentionDecision decide_retention(std::span<const CheckpointInfo> checkpoints,
                                   const RetentionPolicy& policy) {
  const std::vector<CheckpointInfo> current = current_newest_first(checkpoints);
  std::map<std::uint64_t, std::string> kept;

  const auto keep_last = static_cast<std::size_t>(std::max(1, policy.keep_last));
  for (std::size_t i = 0; i < std::min(keep_last, current.size()); ++i) {
    kept.emplace(current[i].id, fmt::format("one of the last {}", keep_last));
  }
  std::vector<CheckpointInfo> verified;
  for (const CheckpointInfo& c : current) {
    if (c.verified) verified.push_back(c);
  }
  const auto keep_verified = static_cast<std::size_t>(std::max(2, policy.keep_verified));
  const std::vector<CheckpointInfo> spread = at_growing_distances(verified, keep_verified);
  for (std::size_t i = 0; i < spread.size(); ++i) {
    kept.emplace(spread[i].id, i == 0 ? "newest verified"
                               : i == 1
                                   ? "verified before the newest verified"
                                   : fmt::format("verified, {} steps before the newest verified",
                                                 spread[0].step - spread[i].step));
  }
  for (const CheckpointInfo& c : current) {
    if (policy.keep_every > 0 && c.step % policy.keep_every == 0) {
      kept.emplace(c.id, fmt::format("step {} is a multiple of {}", c.step, policy.keep_every));
    }
  }
  std::vector<CheckpointInfo> removed;
  for (const CheckpointInfo& c : checkpoints) {
    if (policy.pinned.contains(c.id)) kept.emplace(c.id, "pinned");
    if (!kept.contains(c.id)) removed.push_back(c);
  }
  std::sort(removed.begin(), removed.end(), [](const CheckpointInfo& a, const CheckpointInfo& b) {
    return std::tie(a.on_current_ancestry, a.committed, a.id) <
           std::tie(b.on_current_ancestry, b.committed, b.id);
  });

  RetentionDecision decision;
  for (const auto& [id, reason] : kept) decision.keep.push_back({id, reason});
  for (const CheckpointInfo& c : removed) {
    decision.remove.push_back(
        {c.id, c.on_current_ancestry
                   ? fmt::format("step {} is none of those that the policy keeps", c.step)
                   : fmt::format("step {} of branch {}, which was left", c.step, c.branch)});
  }
  return decision;
}

bool on_ancestry(std::uint64_t branch, std::int64_t step, std::uint64_t current_branch,
                 std::span<const BranchParent> parents) {
  std::int64_t last = std::numeric_limits<std::int64_t>::max();
  std::uint64_t at = current_branch;
  // Branch numbers fall towards the root, so this ends.
  while (true) {
    if (at == branch) return step <= last;
    const auto link = std::find_if(parents.begin(), parents.end(),
                                   [&](const BranchParent& p) { return p.branch == at; });
    if (link == parents.end() || link->parent >= at) return false;
    last = std::min(last, link->step);
    at = link->parent;
  }
}

}  // namespace tenax::checkpoint
