// When the disk will be full of checkpoints, told before it is. Pure functions.
#pragma once

#include <cstdint>

namespace tenax::scheduler {

/// As of a commit, before retention deletes anything.
struct SpaceFacts {
  std::uint64_t free_bytes = 0;
  std::uint64_t checkpoint_bytes = 0;  ///< of one
  std::int64_t num_checkpoints = 0;    ///< on the disk
  std::int64_t keep_last = 1;
  std::int64_t keep_verified = 3;
  std::int64_t keep_every = 0;  ///< these stay for good; 0: none
  std::int64_t interval = 0;    ///< steps between checkpoints; 0: nothing is foretold
  std::int64_t step = 0;
  std::int64_t total_steps = 0;
};

struct SpaceForecast {
  bool fills = false;             ///< before the run ends
  std::int64_t saves_left = 0;    ///< checkpoints that still fit
  std::int64_t full_at_step = 0;  ///< of the one that does not
};

/// Counts the checkpoints that retention keeps at most (keep_last, keep_verified, keep_every) and
/// the one being written beside them. Errs towards warning early. Nobody else is expected to use
/// the disk.
SpaceForecast forecast_space(const SpaceFacts& facts);

/// Whether to warn now, after every save being too often: when 64, 32, 16, ... 1 or none are left.
bool worth_saying(const SpaceForecast& forecast);

}  // namespace tenax::scheduler
