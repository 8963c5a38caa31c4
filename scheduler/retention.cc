#include "scheduler/retention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <set>
#include <tuple>

namespace tenax::scheduler {

namespace {

/// Of `verified`, newest first: the newest, its predecessor, and then the ones closest to 3, 7, 15,
/// ... times the distance between those two. The farther of two equally close ones, so that a
/// checkpoint that is kept moves outwards until a successor is due.
void keep_at_growing_distances(const std::vector<RetentionCandidate>& verified, std::size_t count,
                               std::set<std::uint64_t>& keep) {
  std::size_t chosen = 0;
  std::size_t next = 0;
  while (chosen < count && next < verified.size()) {
    std::size_t best = next;
    if (chosen >= 2) {
      const std::int64_t newest = verified[0].step;
      const std::int64_t unit = std::max<std::int64_t>(1, newest - verified[1].step);
      const std::int64_t target =
          unit * ((std::int64_t{1} << std::min<std::size_t>(chosen, 30)) - 1);
      const std::size_t needed_after = count - chosen - 1;  // enough older ones must stay over
      std::int64_t best_error = std::numeric_limits<std::int64_t>::max();
      for (std::size_t i = next; i < verified.size(); ++i) {
        if (i > next && verified.size() - i - 1 < needed_after) break;
        const std::int64_t error = std::abs(newest - verified[i].step - target);
        if (error <= best_error) {
          best_error = error;
          best = i;
        }
      }
    }
    keep.insert(verified[best].id);
    ++chosen;
    next = best + 1;
  }
}

}  // namespace

std::vector<RetentionVerdict> choose_deletions(const std::vector<RetentionCandidate>& candidates,
                                               const RetentionPolicy& policy) {
  std::vector<RetentionCandidate> sound;     // on the current ancestry, readable
  std::vector<RetentionCandidate> verified;  // of these
  std::vector<RetentionCandidate> newest_first = candidates;
  std::sort(newest_first.begin(), newest_first.end(),
            [](const RetentionCandidate& a, const RetentionCandidate& b) {
              return std::tie(a.step, a.id) > std::tie(b.step, b.id);
            });
  for (const RetentionCandidate& c : newest_first) {
    if (!c.on_ancestry || c.quarantined) continue;
    sound.push_back(c);
    if (c.verified) verified.push_back(c);
  }

  std::set<std::uint64_t> keep;
  const auto keep_last = static_cast<std::size_t>(std::max(1, policy.keep_last));
  for (std::size_t i = 0; i < std::min(keep_last, sound.size()); ++i) keep.insert(sound[i].id);
  for (const RetentionCandidate& c : sound) {
    if (policy.keep_every > 0 && c.step % policy.keep_every == 0) keep.insert(c.id);
  }
  keep_at_growing_distances(verified, static_cast<std::size_t>(std::max(2, policy.keep_verified)),
                            keep);
  for (const RetentionCandidate& c : newest_first) {
    if (!c.on_ancestry || !c.quarantined) continue;
    if (sound.size() < keep_last || c.step >= sound[keep_last - 1].step) keep.insert(c.id);
  }

  std::vector<RetentionVerdict> verdicts;
  for (const bool left_branch : {true, false}) {
    for (auto it = newest_first.rbegin(); it != newest_first.rend(); ++it) {
      if (it->on_ancestry == left_branch || keep.contains(it->id)) continue;
      verdicts.push_back(
          {it->id, left_branch
                       ? fmt::format("step {} of branch {}, which was left", it->step, it->branch)
                       : fmt::format("step {}: newer ones are kept (keep_last = {})", it->step,
                                     policy.keep_last)});
    }
  }
  return verdicts;
}

}  // namespace tenax::scheduler
