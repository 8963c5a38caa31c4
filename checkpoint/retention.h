// Which checkpoints to delete. A pure decision with a reason for every checkpoint, deleted or kept.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "common/clock.h"

namespace tenax::checkpoint {

/// What retention needs to know of a committed checkpoint.
struct CheckpointInfo {
  std::uint64_t id = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  Time committed{};
  bool verified = false;
  bool on_current_ancestry = false;  ///< see on_ancestry()
};

struct RetentionPolicy {
  int keep_last = 3;  ///< newest on the current ancestry, verified or not; at least 1 is kept
  std::int64_t keep_every = 0;  ///< steps that are multiples of it are kept for good; 0: none
  int keep_verified = 3;        ///< verified ones at growing distances; at least 2 are kept (C3)
  std::set<std::uint64_t> pinned{};  ///< ids that a reader, an operator or a restore holds
};

struct Retained {
  std::uint64_t id = 0;
  std::string reason;
  bool operator==(const Retained&) const = default;
};

struct RetentionDecision {
  std::vector<Retained>
      remove;                  ///< in the order of deletion: left branches first, then oldest first
  std::vector<Retained> keep;  ///< rising id
};

/// Keeps on the current ancestry: the last keep_last, every keep_every-th, the newest verified and
/// its predecessor (C3) and further verified ones whose distances to the newest grow about twofold;
/// and whatever is pinned. Everything else, all of left branches included, is deleted. Same answer
/// for any order of `checkpoints`.
RetentionDecision decide_retention(std::span<const CheckpointInfo> checkpoints,
                                   const RetentionPolicy& policy);

/// True if (branch, step) lies on the history of `current_branch`: on it, or on an ancestor no
/// later than it was left.
bool on_ancestry(std::uint64_t branch, std::int64_t step, std::uint64_t current_branch,
                 std::span<const BranchParent> parents);

}  // namespace tenax::checkpoint
