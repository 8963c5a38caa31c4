// What the spike detector reads and what it says: one point of the metric series, and verdicts with
// their numbers. Plain values, so that events go into the journal and points can be replayed from
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tenax::scheduler {

/// The globally reduced metrics of one optimizer step.
struct MetricPoint {
  std::int64_t step = 0;
  double loss = 0;                  ///< nats; may be non-finite
  std::optional<double> grad_norm;  ///< before clipping; absent where it is not logged
  bool update_skipped = false;      ///< the guard kept the weights as they were
  bool missing = false;             ///< the step was taken but no loss came; `loss` is not read
};

enum class SpikeVerdict : std::uint8_t {
  kArmed,         ///< one suspicious loss or gradient norm; nothing is known yet
  kOutlier,       ///< what armed was gone at once: a matter of one batch
  kSpike,         ///< confirmed by the loss
  kRecovered,     ///< a spike that healed by itself
  kRollback,      ///< a spike that stayed: the decision to roll back
  kDivergence,    ///< back at the loss of an untrained model; decided without waiting
  kLevelShift,    ///< the plateau is higher than it was, without a spike that would explain it
  kAbnormalDrop,  ///< the loss fell further than its trend: repeated data, a leak, or a wrong scale
  kLossZero,      ///< exactly zero: some loggers write NaN so
  kNonFinite,     ///< the loss or the gradient norm is NaN or infinite
  kOverflow,      ///< as above, the loss finite, under fp16 loss scaling: normal once
  kMissingReports,   ///< steps advanced without a loss
  kRestoreMismatch,  ///< the first loss after a restore is not the loss before it
};

enum class SpikeAction : std::uint8_t {
  kNone,
  kSkipUpdate,  ///< the guard has kept the weights; go on
  kReplayStep,  ///< hold, and compute the step again elsewhere: a transient, a device, or data x
                ///< state?
  kRollBack,
  kStop,
};

enum class SpikePhase : std::uint8_t { kOk, kArmed, kSpike, kRecovered, kRollback };

/// `onset` is the first step of what the verdict is about. `score` is the excess over the baseline
/// in robust sigmas after the floors: at `SpikeOptions::sigmas` a sample is suspicious. `baseline`
/// and `score` are 0 where none exists. `loss` is as reported (it may be non-finite). `reason` is
/// one sentence with the numbers.
struct SpikeEvent {
  std::int64_t step = 0;
  std::int64_t onset = 0;
  SpikeVerdict verdict = SpikeVerdict::kArmed;
  double loss = 0;
  double baseline = 0;
  double score = 0;
  SpikeAction action = SpikeAction::kNone;
  std::string reason;
};

/// Lower-case words joined by underscores, as in JSON: "level_shift".
std::string_view to_string(SpikeVerdict verdict);
std::string_view to_string(SpikeAction action);
std::string_view to_string(SpikePhase phase);

}  // namespace tenax::scheduler
