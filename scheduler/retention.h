// Which checkpoints to delete. Pure: the controller decides, the store obeys. Invariant C3: the
// newest verified checkpoint of the current branch and its predecessor are never deleted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tenax::scheduler {

struct RetentionPolicy {
  int keep_last = 3;            ///< the newest so many on the current ancestry; at least 1
  std::int64_t keep_every = 0;  ///< and every one whose step is a multiple; 0 = none
  int keep_verified = 3;        ///< and so many verified ones, at growing distance; at least 2
};

struct RetentionCandidate {
  std::uint64_t id = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  bool verified = false;
  bool on_ancestry = true;   ///< of the current branch; checkpoints of left branches go first
  bool quarantined = false;  ///< cannot be read back: takes no place among those that are kept
};

struct RetentionVerdict {
  std::uint64_t checkpoint_id = 0;
  std::string reason;
  bool operator==(const RetentionVerdict&) const = default;
};

/// The checkpoints to delete, left branches first, then oldest first. Kept on the current ancestry:
/// the last keep_last, every keep_every-th, the newest verified and its predecessor (C3) and
/// further verified ones whose distances to the newest grow about twofold. A quarantined one stays,
/// as evidence, until all of the last keep_last are newer. Same answer for any order of
/// `candidates`.
std::vector<RetentionVerdict> choose_deletions(const std::vector<RetentionCandidate>& candidates,
                                               const RetentionPolicy& policy);

}  // namespace tenax::scheduler
