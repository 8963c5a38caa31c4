// All that the spike detector knows, as plain data. Value type.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/spike_baseline.h"
#include "scheduler/spike_event.h"

namespace tenax::scheduler {

/// For the journal and for rewinding at a rollback. Every number is finite.
struct SpikeDetectorState {
  SpikePhase phase = SpikePhase::kOk;
  SpikeBaselineState baseline;
  std::vector<double> recent;        ///< last finite losses, flagged ones too, at most `window`
  std::vector<double> first_losses;  ///< the run's first five
  std::int64_t last_step = -1;
  std::int64_t last_gap = 0;          ///< steps between the last two points
  std::int64_t num_samples = 0;       ///< finite losses since the start or a planned change
  std::int64_t hold_samples = 0;      ///< still to pass before anything arms
  std::int64_t cooldown_samples = 0;  ///< still to pass before persistence rolls back
  std::int64_t ramp_until = -1;       ///< last step of an announced ramp
  bool check_restore = false;         ///< compare the next loss with the baseline

  // The current excursion, from `armed` on.
  std::int64_t onset = -1;
  std::int64_t since_onset = 0;    ///< samples, the onset's included
  std::int64_t since_verdict = 0;  ///< samples since the rollback verdict
  std::uint64_t suspicious = 0;    ///< one bit a sample, the newest lowest: the loss was suspicious
  std::uint64_t arming = 0;        ///< likewise: loss or gradient norm was suspicious
  std::int64_t divergent = 0;      ///< samples in a row back at the first losses
  std::int64_t recovered_left = 0;  ///< samples until `recovered` becomes `ok`
  double peak = 0;

  // Streaks of hard triggers.
  std::int64_t bad_streak = 0;  ///< non-finite or zero losses in a row
  std::int64_t bad_onset = -1;
  std::uint32_t overflows = 0;  ///< one bit a sample: the gradient norm was not finite
  bool overflow_reported = false;
  std::int64_t missing_streak = 0;
  std::int64_t missing_onset = -1;

  // Slow changes.
  std::int64_t drop_streak = 0;
  std::int64_t drop_onset = -1;
  std::vector<double> block;         ///< accepted losses of the unfinished block
  std::int64_t block_begin = -1;     ///< its first step
  std::vector<double> block_levels;  ///< medians of finished blocks, oldest first
  std::int64_t shift_streak = 0;     ///< raised blocks in a row; from 2 on they were reported
  std::int64_t shift_onset = -1;

  bool operator==(const SpikeDetectorState&) const = default;
};

}  // namespace tenax::scheduler
