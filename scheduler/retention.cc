#include "scheduler/retention.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace tenax::scheduler {

namespace {

/// Verified ones to keep: the newest two, then each next at least twice as far from the newest as
/// the one before.
void keep_verified_at_growing_distance(const std::vector<RetentionCandidate>& newest_first,
                                       int count, std::set<std::uint64_t>& keep) {
  std::int64_t newest_step = 0;
  std::int64_t distance = 0;
  int kept = 0;
  for (const RetentionCandidate& c : newest_first) {
    if (!c.verified || kept >= std::max(2, count)) continue;
    const std::int64_t from_newest = newest_step - c.step;
    if (kept >= 2 && from_newest < 2 * distance) continue;
    if (kept == 0) newest_step = c.step;
    if (kept > 0) distance = std::max(distance, newest_step - c.step);
    keep.insert(c.id);
    ++kept;
  }
}

}  // namespace

std::vector<RetentionVerdict> choose_deletions(const std::vector<RetentionCandidate>& candidates,
                                               const RetentionPolicy& policy) {
  std::vector<RetentionCandidate> current;
  std::vector<RetentionCandidate> left;
  for (const RetentionCandidate& c : candidates) (c.on_ancestry ? current : left).push_back(c);
  const auto newer = [](const RetentionCandidate& a, const RetentionCandidate& b) {
    return a.step != b.step ? a.step > b.step : a.id > b.id;
  };
  std::sort(current.begin(), current.end(), newer);
  std::sort(left.begin(), left.end(), newer);

  std::set<std::uint64_t> keep;
  for (std::size_t i = 0; i < current.size() && static_cast<int>(i) < std::max(1, policy.keep_last);
       ++i) {
    keep.insert(current[i].id);
  }
  for (const RetentionCandidate& c : current) {
    if (policy.keep_every > 0 && c.step % policy.keep_every == 0) keep.insert(c.id);
  }
  keep_verified_at_growing_distance(current, policy.keep_verified, keep);

  std::vector<RetentionVerdict> verdicts;
  for (const RetentionCandidate& c : left) {
    verdicts.push_back(
        {c.id, fmt::format("step {} of branch {}, which was left", c.step, c.branch)});
  }
  for (auto it = current.rbegin(); it != current.rend(); ++it) {
    if (!keep.contains(it->id)) {
      verdicts.push_back({it->id, fmt::format("step {}: newer ones are kept (keep_last = {})",
                                              it->step, policy.keep_last)});
    }
  }
  return verdicts;
}

}  // namespace tenax::scheduler
