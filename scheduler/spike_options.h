// Every threshold of the loss-spike detector and of the ladder that acts on its verdicts, with
// defaults that suit globally reduced losses of language models. docs/loss-spikes.md says where
// each number comes from. Value type.
#pragma once

#include <cstdint>

#include "common/result.h"

namespace tenax::scheduler {

/// A "sample" is one reported metric point: one step in a Tenax run, `log_every` steps in a logged
/// curve.
struct SpikeOptions {
  bool enabled = true;

  // Baseline.
  /// Accepted samples that make the baseline.
  std::int32_t window = 64;
  /// Soft verdicts are held off for so many samples of a fresh run.
  std::int32_t warmup_samples = 64;
  /// Suspicious: above the baseline by so many robust sigmas and by both floors (a share of the
  /// baseline; nats).
  double sigmas = 6;
  double min_relative_rise = 0.03;
  double min_rise = 0.1;
  /// Back to normal: the excess is at most this share of the suspicious one.
  double release_fraction = 0.5;
  /// Thresholds grow by this factor during an announced ramp.
  double ramp_tolerance = 2;

  // Arming and confirming.
  /// A gradient norm so many times its median arms; it never fires alone.
  double grad_norm_factor = 8;
  /// Spike: `confirm_count` of the last `confirm_of` samples are suspicious.
  std::int32_t confirm_of = 3;
  std::int32_t confirm_count = 2;
  /// Recovered: the median of so many samples is back to normal.
  std::int32_t recovery_samples = 5;

  // Deciding on persistence.
  /// Samples from the onset before a rollback is decided, and the share that must be suspicious.
  std::int32_t patience = 20;
  double patience_share = 0.8;
  /// No waiting after so many samples in a row that are this share of the way from the baseline
  /// back to the run's first losses.
  std::int32_t divergence_samples = 5;
  double divergence_share = 0.9;
  /// An undone verdict, or a drop, becomes the baseline after so many samples.
  std::int32_t adopt_samples = 60;

  // Hard triggers.
  /// So many non-finite (or exactly zero) losses in a row: roll back.
  std::int32_t non_finite_patience = 3;
  /// Training in fp16 with dynamic loss scaling: a non-finite gradient norm beside a finite loss is
  /// then an overflow and normal; else it counts like a non-finite loss.
  bool fp16_loss_scaling = false;
  /// So many overflows among 8 samples, after the warm-up, are more than loss scaling explains.
  std::int32_t overflow_burst = 6;
  /// So many reports in a row without a loss are a verdict.
  std::int32_t missing_patience = 3;

  // Slow changes.
  /// Samples in a block whose median is remembered, and the number of blocks remembered.
  std::int32_t shift_block = 32;
  std::int32_t shift_history = 32;
  /// Level shift: two block medians in a row above the lowest one by so many sigmas and so many
  /// nats. It asks for a rollback only if the rise is also a suspicious one.
  double shift_sigmas = 2;
  double min_shift = 0.05;
  /// Abnormal drop: so many samples in a row below the baseline by so many sigmas and this share.
  std::int32_t drop_confirm = 3;
  double drop_sigmas = 6;
  double drop_relative = 0.1;

  // After a resume or a rollback.
  /// Samples after a rollback that arm nothing.
  std::int32_t resume_hold = 10;
  /// Restore failure: the first loss is so many sigmas (after the floors) from the baseline.
  double restore_sigmas = 12;
  /// No second rollback for persistence within so many samples.
  std::int32_t cooldown_samples = 50;

  // The ladder.
  /// Before a rollback at most so many steps are computed again elsewhere, to tell a faulty device
  /// from data and weights; 0: never.
  std::int64_t replay_steps = 500;
  /// The branch point lies so far before the onset; the skip window ends so far after the verdict.
  std::int64_t margin_steps = 100;
  /// An onset so near an earlier rollback is the same trouble again.
  std::int64_t region_steps = 1000;
  std::int32_t max_rollbacks_per_region = 3;
  std::int32_t max_rollbacks = 20;
  /// Of all steps of the run; the first window is always allowed.
  double max_skipped_fraction = 0.02;
  /// Older checkpoints tried before stopping.
  std::int32_t max_restore_failures = 2;
  /// From the second rollback in a region on: the learning rate is multiplied by this for each,
  /// from the branch point until so many steps after the skip window.
  double soften_lr_factor = 0.7;
  std::int64_t soften_steps = 1000;
};

/// All that is wrong with `options`, in one kInvalidArgument.
Status validate(const SpikeOptions& options);

/// Calls visit(name, member) for every option, in the order above: for files, the journal and
/// command lines. `Options` is SpikeOptions or const SpikeOptions.
template <class Options, class Visitor>
void for_each_spike_option(Options& options, Visitor&& visit) {
  visit("enabled", options.enabled);
  visit("window", options.window);
  visit("warmup_samples", options.warmup_samples);
  visit("sigmas", options.sigmas);
  visit("min_relative_rise", options.min_relative_rise);
  visit("min_rise", options.min_rise);
  visit("release_fraction", options.release_fraction);
  visit("ramp_tolerance", options.ramp_tolerance);
  visit("grad_norm_factor", options.grad_norm_factor);
  visit("confirm_of", options.confirm_of);
  visit("confirm_count", options.confirm_count);
  visit("recovery_samples", options.recovery_samples);
  visit("patience", options.patience);
  visit("patience_share", options.patience_share);
  visit("divergence_samples", options.divergence_samples);
  visit("divergence_share", options.divergence_share);
  visit("adopt_samples", options.adopt_samples);
  visit("non_finite_patience", options.non_finite_patience);
  visit("fp16_loss_scaling", options.fp16_loss_scaling);
  visit("overflow_burst", options.overflow_burst);
  visit("missing_patience", options.missing_patience);
  visit("shift_block", options.shift_block);
  visit("shift_history", options.shift_history);
  visit("shift_sigmas", options.shift_sigmas);
  visit("min_shift", options.min_shift);
  visit("drop_confirm", options.drop_confirm);
  visit("drop_sigmas", options.drop_sigmas);
  visit("drop_relative", options.drop_relative);
  visit("resume_hold", options.resume_hold);
  visit("restore_sigmas", options.restore_sigmas);
  visit("cooldown_samples", options.cooldown_samples);
  visit("replay_steps", options.replay_steps);
  visit("margin_steps", options.margin_steps);
  visit("region_steps", options.region_steps);
  visit("max_rollbacks_per_region", options.max_rollbacks_per_region);
  visit("max_rollbacks", options.max_rollbacks);
  visit("max_skipped_fraction", options.max_skipped_fraction);
  visit("max_restore_failures", options.max_restore_failures);
  visit("soften_lr_factor", options.soften_lr_factor);
  visit("soften_steps", options.soften_steps);
}

}  // namespace tenax::scheduler
