// What a finished run says about itself, read with `tenax metrics` and `tenax journal`, and what
// must be true of it. Value type.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/run_types.h"
#include "tests/support/run_under_test.h"

namespace tenax::testing {

class RunHistory {
 public:
  struct Step {
    double loss = 0;  ///< NaN if it was not finite
    std::int64_t position_begin = 0;
    std::int64_t position_end = 0;
  };

  explicit RunHistory(const RunUnderTest& run);

  const std::vector<nlohmann::json>& journal() const { return journal_; }
  /// Journal entries whose text contains `words`.
  int count(const std::string& words) const;
  std::int64_t num_generations() const;
  std::uint64_t final_branch() const { return final_branch_; }
  /// The counted steps on the way to the end: those of the final branch and its ancestors.
  const std::map<std::int64_t, Step>& path() const { return path_; }
  /// (branch, step) of updates that the guard skipped.
  const std::vector<std::pair<std::uint64_t, std::int64_t>>& skipped_updates() const {
    return skipped_updates_;
  }
  /// From the newest checkpoint.
  const std::vector<SkipWindow>& skip_windows() const { return skip_windows_; }

 private:
  std::vector<nlohmann::json> journal_;
  std::map<std::int64_t, Step> path_;
  std::vector<std::pair<std::uint64_t, std::int64_t>> skipped_updates_;
  std::vector<SkipWindow> skip_windows_;
  std::uint64_t final_branch_ = 0;
};

/// Steps 1..`steps` train `global_batch_size` positions each; together they cover all positions
/// from 0 on outside of `windows`, none twice. Reports of the same (branch, step) agree.
void expect_each_position_once(const RunHistory& history, std::int64_t steps,
                               std::int64_t global_batch_size,
                               const std::vector<SkipWindow>& windows);

/// Every checkpoint of the run is whole and holds finite numbers only.
void expect_checkpoints_sound_and_finite(const RunUnderTest& run);

}  // namespace tenax::testing
