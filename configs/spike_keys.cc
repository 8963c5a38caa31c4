// Keys of section [spikes]. scheduler::validate() has the rules; the ranges here say most of them
// at the key's line.
#include "configs/spike_keys.h"

namespace tenax::configs {

namespace {

FieldOptions row(std::string_view doc, std::string_view unit = "", Range range = {}) {
  return {.doc = doc, .unit = unit, .range = range, .changeable = Changeable::kYes};
}

}  // namespace

void bind_spikes(Binder& b, scheduler::SpikeOptions& c) {
  b.add("spikes.enabled", c.enabled, row("Detect loss spikes and act on them."));
  b.add("spikes.window", c.window,
        row("Accepted samples that make the baseline.", "samples", between(8, 4096)));
  b.add(
      "spikes.warmup_samples", c.warmup_samples,
      row("No soft verdict in the first so many samples of a fresh run.", "samples", at_least(0)));
  b.add("spikes.sigmas", c.sigmas,
        row("Suspicious: above the baseline by so many robust sigmas.", "sigmas", above(0)));
  b.add("spikes.min_relative_rise", c.min_relative_rise,
        row("Suspicious needs a rise by this share of the baseline.", "", at_least(0)));
  b.add("spikes.min_rise", c.min_rise,
        row("Suspicious needs a rise by so much.", "nats", at_least(0)));
  b.add(
      "spikes.release_fraction", c.release_fraction,
      row("Back to normal: excess at most this share of the suspicious one.", "", above_to(0, 1)));
  b.add("spikes.ramp_tolerance", c.ramp_tolerance,
        row("Thresholds grow by this factor during an announced ramp.", "", at_least(1)));
  b.add("spikes.grad_norm_factor", c.grad_norm_factor,
        row("A gradient norm so many times its median arms the detector.", "", above(1)));
  b.add("spikes.confirm_of", c.confirm_of,
        row("Samples looked at to confirm a spike.", "samples", between(2, 64)));
  b.add("spikes.confirm_count", c.confirm_count,
        row("So many of them must be suspicious.", "samples", between(1, 64)));
  b.add("spikes.recovery_samples", c.recovery_samples,
        row("Recovered: the median of so many samples is back to normal.", "samples",
            between(1, 4096)));
  b.add("spikes.patience", c.patience,
        row("Samples from the onset before a rollback is decided.", "samples", between(1, 64)));
  b.add("spikes.patience_share", c.patience_share,
        row("Share of them that must be suspicious.", "", above_to(0, 1)));
  b.add("spikes.divergence_samples", c.divergence_samples,
        row("So many in a row near an untrained loss: no waiting.", "samples", at_least(1)));
  b.add(
      "spikes.divergence_share", c.divergence_share,
      row("Near: this share of the way from the baseline back to the first losses.", "", above(0)));
  b.add("spikes.adopt_samples", c.adopt_samples,
        row("A level shift or drop becomes the baseline after so many samples.", "samples",
            at_least(8)));
  b.add("spikes.non_finite_patience", c.non_finite_patience,
        row("So many non-finite or zero losses in a row: roll back.", "samples", at_least(1)));
  b.add("spikes.fp16_loss_scaling", c.fp16_loss_scaling,
        row("A non-finite gradient norm beside a finite loss is an overflow, and normal."));
  b.add("spikes.overflow_burst", c.overflow_burst,
        row("So many overflows among 8 samples are more than loss scaling.", "samples",
            between(1, 8)));
  b.add("spikes.missing_patience", c.missing_patience,
        row("So many reports in a row without a loss are a verdict.", "samples", at_least(1)));
  b.add("spikes.shift_block", c.shift_block,
        row("Samples in a block whose median is remembered.", "samples", at_least(8)));
  b.add("spikes.shift_history", c.shift_history, row("Blocks remembered.", "", at_least(2)));
  b.add("spikes.shift_sigmas", c.shift_sigmas,
        row("Level shift: two block medians so far above the lowest.", "sigmas", above(0)));
  b.add("spikes.min_shift", c.min_shift, row("And by so much.", "nats", at_least(0)));
  b.add("spikes.drop_confirm", c.drop_confirm,
        row("Samples in a row that show an abnormal drop.", "samples", at_least(1)));
  b.add("spikes.drop_sigmas", c.drop_sigmas,
        row("Abnormal drop: below the baseline by so many sigmas.", "sigmas", above(0)));
  b.add("spikes.drop_relative", c.drop_relative,
        row("And by this share of the baseline.", "", at_least(0)));
  b.add("spikes.resume_hold", c.resume_hold,
        row("Samples after a rollback that arm nothing.", "samples", at_least(0)));
  b.add("spikes.restore_sigmas", c.restore_sigmas,
        row("First loss so far from the baseline: the restore failed.", "sigmas", above(0)));
  b.add("spikes.cooldown_samples", c.cooldown_samples,
        row("No second rollback for persistence within so many samples.", "samples", at_least(0)));
  b.add("spikes.replay_steps", c.replay_steps,
        row("Before a rollback so many steps may be computed again elsewhere; 0: none.", "steps",
            between(0, 1e12)));
  b.add("spikes.margin_steps", c.margin_steps,
        row("Skip window: begins so far before the onset, ends so far after the verdict.", "steps",
            between(1, 1e12)));
  b.add("spikes.region_steps", c.region_steps,
        row("An onset so near an earlier rollback is the same trouble again.", "steps",
            between(0, 1e12)));
  b.add("spikes.max_rollbacks_per_region", c.max_rollbacks_per_region,
        row("Rollbacks for the same trouble before the run stops.", "", at_least(0)));
  b.add("spikes.max_rollbacks", c.max_rollbacks,
        row("Rollbacks over the run before it stops.", "", at_least(0)));
  b.add("spikes.max_skipped_fraction", c.max_skipped_fraction,
        row("Share of all steps whose samples may be skipped.", "", between(0, 1)));
  b.add("spikes.max_restore_failures", c.max_restore_failures,
        row("Older checkpoints tried before stopping.", "", at_least(0)));
  b.add("spikes.soften_lr_factor", c.soften_lr_factor,
        row("From the second rollback in a region on: factor of the learning rate for each.", "",
            above_to(0, 1)));
  b.add("spikes.soften_steps", c.soften_steps,
        row("So long after the skip window is the learning rate softened.", "steps",
            between(0, 1e12)));
}

void bind_guard(Binder& b, scheduler::GuardOptions& c) {
  b.add("spikes.recompute", c.recompute,
        row("Compute a suspicious step again before its update is skipped or applied."));
  b.add("spikes.outlier_factor", c.outlier_factor,
        row("A gradient norm so many times its usual level is held.", "", above(1)));
  b.add("spikes.skip_outliers", c.skip_outliers,
        row("Skip the update of an outlier that is computed again alike, instead of clipping it."));
  b.add("spikes.outlier_pause", c.pause_steps,
        row("After such an outlier no other one is held for so long.", "steps", at_least(0)));
  b.add("optimizer.adaptive_clip", c.adaptive_clip,
        {.doc = "Clip gradient norms that stand out from the recent ones (ZClip), too."});
  b.add("optimizer.adaptive_clip_sigmas", c.adaptive_sigmas,
        {.doc = "Standing out: so many deviations above the mean.", .range = above(0)});
  b.add("optimizer.adaptive_clip_decay", c.adaptive_decay,
        {.doc = "Of the mean and the variance, for each step.", .range = from_to_below(0, 1)});
  b.add("optimizer.adaptive_clip_warmup", c.adaptive_warmup,
        {.doc = "Steps that only teach the mean and the variance.",
         .unit = "steps",
         .range = at_least(2)});
}

}  // namespace tenax::configs
