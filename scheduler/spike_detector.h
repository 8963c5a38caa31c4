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
#include <string>
#include <vector>

#include "scheduler/spike_event.h"
#include "scheduler/spike_measure.h"
#include "scheduler/spike_options.h"
#include "scheduler/spike_state.h"

namespace tenax::scheduler {

/// What the detector cannot see in the metrics. `until_step` is read for ramps only.
struct ContextChange {
  enum class Kind : std::uint8_t {
    kLearningRateRamp,  ///< the rate rises or jumps at `step`, settled at `until_step`
    kBatchRamp,         ///< likewise the global batch size
    kMembership,        ///< another layout computes on from `step`
    kResume,         ///< a checkpoint of `step` was loaded, and no replayed step could be compared
    kRollback,       ///< state() was rewound to `step`, which is now the last step of a new branch
    kPlannedChange,  ///< the data mix or the weights change on purpose after `step`
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
  /// arming for a while. After a planned change the baseline is learned anew, with a warm-up.
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

  void observe_finite(const MetricPoint& point, Events& events);
  void check_restore(const MetricPoint& point, Events& events);
  void calm_sample(const MetricPoint& point, Events& events);
  void armed_sample(const MetricPoint& point, bool loss_suspicious, Events& events);
  void spiking_sample(const MetricPoint& point, Events& events);
  void undone_rollback_sample(const MetricPoint& point, Events& events);
  bool rising(const MetricPoint& point) const;
  void begin_excursion(const MetricPoint& point, bool loss_suspicious, Events& events);
  void confirm_spike(const MetricPoint& point, Events& events);
  void decide_rollback(const MetricPoint& point, SpikeVerdict verdict, std::string why,
                       Events& events);
  void accept(const MetricPoint& point, Events& events);
  void note_sample(const MetricPoint& point);
  void end_excursion(SpikePhase phase);

  SpikeMeasure measure() const { return {options_, state_}; }

  SpikeOptions options_;
  SpikeDetectorState state_;
};

}  // namespace tenax::scheduler
