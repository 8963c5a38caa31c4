// The step guard: what to do with a step's update, from the numbers of its verdict, before a weight
// changes. Every rank calls it with the same numbers and the same state and so decides alike; it
// reads no tensor. What it knows of earlier steps is a function of the branch's reports
// (GuardState), so that the controller can put it into plans and checkpoints. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "common/run_types.h"

namespace tenax::scheduler {

struct GuardOptions {
  /// Compute a suspicious step again before its update is skipped or applied.
  bool recompute = true;
  /// A gradient norm so many times its usual level is an outlier.
  double outlier_factor = 20;
  /// Skip the update of an outlier that a second computation confirms, instead of clipping it.
  bool skip_outliers = false;
  /// After a confirmed outlier no other one is held for so many steps: spikes come in groups.
  std::int64_t pause_steps = 32;
  /// A non-finite norm beside a finite loss is an overflow of scaled fp16 gradients.
  bool fp16_loss_scaling = false;
  double clip_norm = 1.0;  ///< largest gradient norm; 0: no limit
  /// ZClip (Kumar et al. 2025, arXiv:2504.02507): the limit is also the mean of the norms plus
  /// `sigmas`^2 / z of their deviations for a norm that is z > `sigmas` deviations above it.
  bool adaptive_clip = false;
  double adaptive_sigmas = 2.5;
  double adaptive_decay = 0.97;       ///< of mean and variance, for each step
  std::int64_t adaptive_warmup = 25;  ///< steps that only learn them
};

enum class GuardAction : std::uint8_t {
  kAccept,
  kHold,  ///< compute the step again from the same weights and samples, then judge anew
  kSkip,
};

struct GuardVerdict {
  GuardAction action = GuardAction::kAccept;
  UpdateKind update = UpdateKind::kApplied;
  double clip_norm = 0;  ///< the limit for this step's update; 0: none
};

/// The numbers of the newest computation of a step.
struct GuardFacts {
  std::int64_t step = 0;
  double loss = 0;
  double grad_norm = 0;
  HoldOutcome held = HoldOutcome::kNotHeld;  ///< of a step computed again: how the two compare
};

/// A step is held at most once: never returns kHold for facts that were held. Cost: some dozen
/// floating-point operations; allocates nothing.
GuardVerdict judge_step(const GuardOptions& options, const GuardState& state,
                        const GuardFacts& facts);

/// Takes in the report of the next step. Only what judge_step() needs later is read: norms of
/// applied updates (as clipped) and the outcome of holding.
void observe_step(const GuardOptions& options, const StepReport& report, GuardState& state);

/// Why a step was held, skipped or clipped, as a sentence; empty for an ordinary step.
std::string describe_guard(const StepReport& report);

}  // namespace tenax::scheduler
