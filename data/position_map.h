// Which absolute sample positions a step trains: position(step) = g(batch schedule, skip windows).
// A skip costs positions, not steps: steps take the positions outside all skip windows in ascending
// order, so every such position is trained exactly once, and a window added later changes nothing
// before its begin. Value type, immutable, any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/run_types.h"

namespace tenax::data {

/// From step `first_step` (1-based) on, the global batch has `size` samples.
struct BatchSizeChange {
  std::int64_t first_step = 1;
  std::int64_t size = 0;
  bool operator==(const BatchSizeChange&) const = default;
};

/// Absolute positions [begin, end).
struct PositionRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool operator==(const PositionRange&) const = default;
};

class PositionMap {
 public:
  /// Windows may overlap, touch, be empty or come in any order.
  PositionMap(std::int64_t global_batch_size, std::vector<SkipWindow> skips);
  /// A batch-size ramp. `ramp` must start with first_step 1 and have ascending first steps and
  /// positive sizes.
  PositionMap(std::vector<BatchSizeChange> ramp, std::vector<SkipWindow> skips);

  std::int64_t batch_size(std::int64_t step) const;
  /// The positions of `step` >= 1 in ascending order, batch_size(step) of them: one range, and one
  /// more for each skip window that falls inside.
  std::vector<PositionRange> ranges(std::int64_t step) const;
  /// ranges(step), one number a sample; element i belongs to global microbatch i / microbatch_size.
  std::vector<std::int64_t> positions(std::int64_t step) const;
  /// The first position of `step`.
  std::int64_t begin(std::int64_t step) const;
  /// One past the last position of `step`; what a checkpoint taken after it records.
  std::int64_t end(std::int64_t step) const;
  /// The skip windows merged: disjoint, not touching, ascending.
  const std::vector<SkipWindow>& skips() const { return skips_; }

 private:
  std::int64_t samples_before(std::int64_t step) const;
  std::int64_t position_of(std::int64_t sample) const;

  std::vector<BatchSizeChange> ramp_;
  std::vector<std::int64_t> samples_before_change_;  // trained before ramp_[i].first_step
  std::vector<SkipWindow> skips_;
  std::vector<std::int64_t> samples_before_skip_;  // non-skipped positions before skips_[i].begin
};

}  // namespace tenax::data
