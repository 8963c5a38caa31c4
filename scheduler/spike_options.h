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
  std::int32_t window = 64;  ///< accepted samples that make the baseline; at least 8
  std::int32_t warmup_samples =
      64;  ///< soft verdicts are held off for so many samples of a fresh run
  double sigmas =
      6;  ///< suspicious: above the baseline by so many robust sigmas, and by both floors
  double min_relative_rise = 0.03;  ///< floor: share of the baseline
  double min_rise = 0.1;            ///< floor: nats
  double release_fraction =
      0.5;  ///< back to normal: the excess is under this share of the suspicious one
  double ramp_tolerance = 2;  ///< thresholds grow by this factor during an announced ramp

  // Arming and confirming.
  double grad_norm_factor =
      8;  ///< a gradient norm so many times its median arms; it never fires alone
  std::int32_t confirm_of =
      3;  ///< spike: confirm_count of the last confirm_of samples are suspicious
  std::int32_t confirm_count = 2;
  std::int32_t recovery_samples =
      5;  ///< recovered: the median of so many samples is back to normal

  // Deciding on persistence.
  std::int32_t patience = 20;   ///< samples from the onset before a rollback is decided
  double patience_share = 0.8;  ///< share of them that must be suspicious
  std::int32_t divergence_samples =
      5;  ///< this many in a row back at the loss of an untrained model: no waiting
  double divergence_share = 0.9;    ///< share of the way from the baseline back to the first losses
  std::int32_t adopt_samples = 60;  ///< after an undone verdict the new level becomes the baseline

  // Hard triggers.
  std::int32_t non_finite_patience =
      3;  ///< so many non-finite (or exactly zero) losses in a row: roll back
  std::int32_t overflow_burst =
      6;  ///< non-finite gradient norms among the last 8 samples: not fp16 scaling
  std::int32_t missing_patience = 3;  ///< so many reports without a loss in a row: a verdict

  // Slow changes.
  std::int32_t shift_block = 32;    ///< samples in a block whose median is remembered
  std::int32_t shift_history = 32;  ///< blocks remembered
  double shift_sigmas =
      3;  ///< level shift: two block medians above the lowest one by so many sigmas
  double drop_sigmas = 6;         ///< abnormal drop: below the extrapolated trend by so many sigmas
  double drop_relative = 0.1;     ///< and by this share of the baseline
  std::int32_t drop_confirm = 3;  ///< samples in a row

  // After a resume or a rollback.
  std::int32_t resume_hold = 10;  ///< samples that arm nothing
  double restore_sigmas =
      12;  ///< first loss further than so many sigmas from the baseline: restore failure
  std::int32_t cooldown_samples = 50;  ///< no rollback for persistence so soon after another

  // The ladder.
  std::int64_t margin_steps =
      100;  ///< the branch point lies so far before the onset, the window ends so far after
  std::int64_t region_steps = 1000;  ///< an onset so near an earlier one is the same trouble again
  std::int32_t max_rollbacks_per_region = 3;
  std::int32_t max_rollbacks = 20;  ///< over the run
  double max_skipped_fraction =
      0.02;  ///< of all steps of the run; the first window is always allowed
  std::int32_t max_restore_failures = 2;  ///< older checkpoints tried before stopping
  double soften_lr_factor =
      0.7;  ///< learning rate from the second rollback in a region on, per rollback
  std::int64_t soften_steps =
      1000;  ///< steps after the skip window until the learning rate is as planned
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
  visit("overflow_burst", options.overflow_burst);
  visit("missing_patience", options.missing_patience);
  visit("shift_block", options.shift_block);
  visit("shift_history", options.shift_history);
  visit("shift_sigmas", options.shift_sigmas);
  visit("drop_sigmas", options.drop_sigmas);
  visit("drop_relative", options.drop_relative);
  visit("drop_confirm", options.drop_confirm);
  visit("resume_hold", options.resume_hold);
  visit("restore_sigmas", options.restore_sigmas);
  visit("cooldown_samples", options.cooldown_samples);
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
