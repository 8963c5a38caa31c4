#include "scheduler/step_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tenax::scheduler {
namespace {

/// Fewer steps say too little about the usual norm.
constexpr std::int64_t kFewestSamples = 8;
/// Of the usual level: how fast it follows, and how far one norm can pull it.
constexpr double kLevelGain = 0.1;
constexpr double kLevelPull = 2;

bool is_outlier(const GuardOptions& options, const GuardState& state, double grad_norm) {
  return state.samples >= kFewestSamples && state.norm_level > 0 &&
         grad_norm > options.outlier_factor * state.norm_level;
}

/// The limit that adaptive clipping sets for `grad_norm`; infinity: none.
double adaptive_limit(const GuardOptions& options, const GuardState& state, double grad_norm) {
  constexpr double kNone = INFINITY;
  if (!options.adaptive_clip || state.samples < options.adaptive_warmup) return kNone;
  const double deviation = std::sqrt(state.norm_variance);
  if (!(deviation > 0)) return kNone;
  const double z = (grad_norm - state.norm_mean) / deviation;
  if (z <= options.adaptive_sigmas) return kNone;
  return state.norm_mean + options.adaptive_sigmas * options.adaptive_sigmas / z * deviation;
}

double limit(const GuardOptions& options, const GuardState& state, double grad_norm) {
  const double adaptive = adaptive_limit(options, state, grad_norm);
  if (!std::isfinite(adaptive)) return options.clip_norm;
  return options.clip_norm > 0 ? std::min(options.clip_norm, adaptive) : adaptive;
}

}  // namespace

GuardVerdict judge_step(const GuardOptions& options, const GuardState& state,
                        const GuardFacts& facts) {
  const bool may_hold = options.recompute && facts.held == HoldOutcome::kNotHeld;
  const bool finite_loss = std::isfinite(facts.loss);
  GuardVerdict verdict;
  if (!finite_loss || !std::isfinite(facts.grad_norm)) {
    verdict.action = GuardAction::kSkip;
    verdict.update = UpdateKind::kSkippedNonFinite;
    if (finite_loss && options.fp16_loss_scaling) {
      verdict.update = UpdateKind::kSkippedOverflow;
    } else if (may_hold) {
      verdict.action = GuardAction::kHold;
    }
    return verdict;
  }
  if (is_outlier(options, state, facts.grad_norm)) {
    if (may_hold && facts.step > state.quiet_until) {
      verdict.action = GuardAction::kHold;
      return verdict;
    }
    if (options.skip_outliers) {
      verdict.action = GuardAction::kSkip;
      verdict.update = UpdateKind::kSkippedOutlier;
      return verdict;
    }
  }
  verdict.clip_norm = limit(options, state, facts.grad_norm);
  return verdict;
}

void observe_step(const GuardOptions& options, const StepReport& report, GuardState& state) {
  if (report.held == HoldOutcome::kSame && std::isfinite(report.grad_norm))
    state.quiet_until = report.step + options.pause_steps;
  if (report.update != UpdateKind::kApplied) return;
  const double norm =
      report.clip_norm > 0 ? std::min(report.grad_norm, report.clip_norm) : report.grad_norm;
  if (state.samples == 0) {
    state.norm_level = report.grad_norm;
    state.norm_mean = norm;
  } else {
    const double pulled = std::min(report.grad_norm, kLevelPull * state.norm_level);
    state.norm_level += kLevelGain * (pulled - state.norm_level);
    // The first steps are averaged plainly, like ZClip's warm-up.
    const auto seen = static_cast<double>(state.samples + 1);
    const double keep = state.samples < options.adaptive_warmup
                            ? std::min(options.adaptive_decay, 1 - 1 / seen)
                            : options.adaptive_decay;
    const double from_mean = norm - state.norm_mean;
    state.norm_mean += (1 - keep) * from_mean;
    state.norm_variance = keep * (state.norm_variance + (1 - keep) * from_mean * from_mean);
  }
  ++state.samples;
}

std::string describe_guard(const StepReport& r) {
  std::string text;
  switch (r.held) {
    case HoldOutcome::kNotHeld:
      break;
    case HoldOutcome::kSame:
      text = fmt::format(
          "held and computed again with the same bits (loss {:.6g}, gradient norm "
          "{:.6g}): not a transient fault; ",
          r.loss, r.grad_norm);
      break;
    case HoldOutcome::kDiffered:
      text = fmt::format(
          "held and computed again with other bits{}: a transient fault of a device;"
          " the second computation counts (loss {:.6g}, gradient norm {:.6g}); ",
          r.suspect_rank >= 0 ? fmt::format(", those of rank {}'s own gradients", r.suspect_rank)
                              : std::string(),
          r.loss, r.grad_norm);
      break;
  }
  switch (r.update) {
    case UpdateKind::kApplied:
      if (!text.empty()) text += "the update is applied";
      break;
    case UpdateKind::kSkippedNonFinite:
      text += "the update is skipped: loss or gradient norm is not finite";
      break;
    case UpdateKind::kSkippedOverflow:
      text += "the update is skipped: an overflow of scaled gradients";
      break;
    case UpdateKind::kSkippedOutlier:
      text += "the update is skipped: its gradient norm is an outlier";
      break;
  }
  return text;
}

}  // namespace tenax::scheduler
