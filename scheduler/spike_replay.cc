#include "scheduler/spike_replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tenax::scheduler {
namespace {

bool agree(double a, double b, double tolerance) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) == std::isnan(b);
  return a == b || std::abs(a - b) <= tolerance * std::max(std::abs(a), std::abs(b));
}

}  // namespace

std::optional<SpikeEvent> compare_replayed(const MetricPoint& journalled,
                                           const MetricPoint& replayed, double tolerance) {
  const bool loss_agrees = agree(journalled.loss, replayed.loss, tolerance);
  const bool norm_agrees =
      journalled.grad_norm.has_value() == replayed.grad_norm.has_value() &&
      (!journalled.grad_norm || agree(*journalled.grad_norm, *replayed.grad_norm, tolerance));
  if (loss_agrees && norm_agrees) return std::nullopt;
  SpikeEvent mismatch;
  mismatch.step = replayed.step;
  mismatch.onset = replayed.step;
  mismatch.verdict = SpikeVerdict::kRestoreMismatch;
  mismatch.loss = replayed.loss;
  mismatch.baseline = std::isfinite(journalled.loss) ? journalled.loss : 0;
  mismatch.action = SpikeAction::kStop;
  mismatch.reason =
      loss_agrees
          ? fmt::format(
                "step {} computed again gives the gradient norm {:.9g}, before it was {:.9g}",
                replayed.step, replayed.grad_norm.value_or(0), journalled.grad_norm.value_or(0))
          : fmt::format("step {} computed again gives the loss {:.9g}, before it was {:.9g}",
                        replayed.step, replayed.loss, journalled.loss);
  return mismatch;
}

}  // namespace tenax::scheduler
