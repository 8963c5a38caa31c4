// The loss-spike detector of the run controller. Published rules either fire on gross divergence
// only or act on one sample; here a spike and the decision to roll back are two states, because
// most real spikes heal by themselves:
//
//   ok --suspicious sample or gradient norm--> armed --2 of 3--> spike --patience--> rollback
//    ^                 armed --quiet again--> ok (outlier)         spike --back to normal-->
//    recovered --> ok
//
// The baseline is frozen from `armed` on and made of unflagged samples only. Decisions are
// functions of the metric series and of announced context changes alone: no clock, no randomness.
// Method, defaults and measured comparison: docs/loss-spikes.md. Value type, confined to its
// owner's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/spike_baseline.h"
#include "scheduler/spike_event.h"
#include "scheduler/spike_options.h"

namespace tenax::scheduler {

/// All the detector knows, for the journal and for rewinding at a rollback. Every number is finite.
struct SpikeDetectorState {
  SpikePhase phase = SpikePhase::kOk;
  SpikeBaselineState baseline;
  std::vector<double> recent;        ///< last finite losses, flagged ones too, at most `window`
  std::vector<double> first_losses;  ///< the run's first five
  std::int64_t last_step = -1;
  std::int64_t last_gap = 0;          ///< steps between the last two points
  std::int64_t num_samples = 0;       ///< finite losses seen
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

/// What the detector cannot see in the metrics. `until_step` is read for ramps only.
struct ContextChange {
  enum class Kind : std::uint8_t {
    kLearningRateRamp,  ///< the rate rises or jumps at `step`, settled at `until_step`
    kBatchRamp,         ///< likewise the global batch size
    kMembership,        ///< another layout computes on from `step`
    kResume,    ///< a checkpoint of `step` was loaded, and no replayed step could be compared
    kRollback,  ///< state() was rewound to `step`, which is now the last step of a new branch
  };
  Kind kind = Kind::kResume;
  std::int64_t step = 0;
  std::int64_t until_step = 0;
};

class SpikeDetector {
 public:
  /// Precondition: validate(options) succeeds.
  explicit SpikeDetector(SpikeOptions options);

  /// Judges the next point and returns what there is to say, usually nothing. A point at or before
  /// the last step is ignored. Nothing non-finite ever enters the state. Cost: see
  /// docs/loss-spikes.md; allocates only for events.
  std::vector<SpikeEvent> observe(const MetricPoint& point);

  /// A ramp widens the thresholds until it ends and forgets the level-shift reference. A resume or
  /// a change of membership alters no baseline and no decision: the next loss is compared with the
  /// baseline, and a mismatch is reported beside whatever else it means. A rollback also holds off
  /// arming for a while.
  void note_context_change(const ContextChange& change);

  SpikePhase state() const { return state_.phase; }
  /// Whether a checkpoint taken now may become verified: nothing is armed, spiking, healing,
  /// missing or shifting.
  bool sound() const;
  /// First step of the current trouble; the newest step where sound().
  std::int64_t trouble_since() const;

  SpikeDetectorState save() const { return state_; }
  static SpikeDetector restore(SpikeOptions options, SpikeDetectorState state);
  const SpikeOptions& options() const { return options_; }

 private:
  using Events = std::vector<SpikeEvent>;

  bool observe_gap(const MetricPoint& point, Events& events);
  void observe_bad_sample(const MetricPoint& point, Events& events);
  void observe_overflow(const MetricPoint& point, bool overflow, Events& events);
  void observe_finite(const MetricPoint& point, Events& events);
  void check_restore(const MetricPoint& point, Events& events);
  void calm_sample(const MetricPoint& point, Events& events);
  void armed_sample(const MetricPoint& point, bool loss_suspicious, Events& events);
  void spiking_sample(const MetricPoint& point, Events& events);
  void undone_rollback_sample(const MetricPoint& point, Events& events);
  void begin_excursion(const MetricPoint& point, bool loss_suspicious, Events& events);
  void confirm_spike(const MetricPoint& point, Events& events);
  void decide_rollback(const MetricPoint& point, SpikeVerdict verdict, std::string why,
                       Events& events);
  bool in_drop(double loss, std::int64_t step) const;
  bool dropped(const MetricPoint& point, Events& events);
  void accept(const MetricPoint& point, Events& events);
  void close_block(const MetricPoint& point, Events& events);
  void adopt_recent();
  void forget_blocks();
  void compare_block(const MetricPoint& point, double level, Events& events);
  void note_sample(const MetricPoint& point);
  void end_excursion(SpikePhase phase);

  bool in_baseline_warmup() const;
  bool in_ramp(std::int64_t step) const { return step <= state_.ramp_until; }
  double suspicious_rise(std::int64_t step) const;
  double score(double loss, std::int64_t step) const;
  bool back_to_normal(std::int64_t step) const;
  bool diverged(double loss) const;
  double recent_median(std::int32_t samples) const;
  SpikeEvent event(const MetricPoint& point, SpikeVerdict verdict, SpikeAction action,
                   std::string reason) const;

  SpikeOptions options_;
  SpikeBaseline baseline_;
  SpikeDetectorState state_;
};

}  // namespace tenax::scheduler
