#include "scheduler/spike_measure.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "scheduler/spike_baseline.h"

namespace tenax::scheduler {
namespace {

constexpr double kLargestUsable = 1e30;
/// Keeps the score finite for a constant loss near zero without floors.
constexpr double kSmallestRise = 1e-12;
constexpr std::size_t kFewestLosses = 8;

}  // namespace

bool is_usable(double value) { return std::abs(value) <= kLargestUsable; }

bool SpikeMeasure::in_warmup() const {
  return state_.num_samples <= options_.warmup_samples ||
         state_.baseline.losses.size() < kFewestLosses;
}

double SpikeMeasure::suspicious_rise(std::int64_t step) const {
  const SpikeBaselineState& base = state_.baseline;
  const double rise =
      std::max({options_.sigmas * base.sigma, options_.min_relative_rise * std::abs(base.level),
                options_.min_rise, kSmallestRise});
  return in_ramp(step) ? options_.ramp_tolerance * rise : rise;
}

double SpikeMeasure::score(double loss, std::int64_t step) const {
  return options_.sigmas * (loss - state_.baseline.level) / suspicious_rise(step);
}

bool SpikeMeasure::loss_suspicious(const MetricPoint& point) const {
  return score(point.loss, point.step) > options_.sigmas;
}

bool SpikeMeasure::confirmed(std::int64_t step) const {
  const std::size_t n =
      std::min(state_.recent.size(), static_cast<std::size_t>(options_.confirm_of));
  double weight = 0;
  for (std::size_t i = state_.recent.size() - n; i < state_.recent.size(); ++i)
    weight += std::clamp(score(state_.recent[i], step), 0.0, options_.sigmas);
  return weight >= options_.confirm_count * options_.sigmas;
}

bool SpikeMeasure::grad_norm_suspicious(const MetricPoint& point) const {
  const double factor =
      options_.grad_norm_factor * (in_ramp(point.step) ? options_.ramp_tolerance : 1);
  const double level = state_.baseline.grad_norm_level;
  return point.grad_norm && is_usable(*point.grad_norm) && level > 0 &&
         *point.grad_norm > factor * level;
}

bool SpikeMeasure::back_to_normal(std::int64_t step) const {
  return recent_median(options_.recovery_samples) <=
         state_.baseline.level + options_.release_fraction * suspicious_rise(step);
}

bool SpikeMeasure::diverged(double loss) const {
  const double level = state_.baseline.level;
  std::vector<double> first = state_.first_losses;
  const double initial = median_in_place(first);
  return loss >= 2 * level && initial >= 2 * level &&
         loss >= level + options_.divergence_share * (initial - level);
}

bool SpikeMeasure::dropped(double loss, std::int64_t step) const {
  const SpikeBaselineState& base = state_.baseline;
  const double fall = base.level - loss;
  return fall > options_.drop_sigmas * base.sigma &&
         fall > options_.drop_relative * std::abs(base.level) && !in_ramp(step);
}

double SpikeMeasure::recent_median(std::int32_t samples) const {
  const std::size_t n = std::min(state_.recent.size(), static_cast<std::size_t>(samples));
  std::vector<double> newest(state_.recent.end() - static_cast<std::ptrdiff_t>(n),
                             state_.recent.end());
  return median_in_place(newest);
}

SpikeEvent SpikeMeasure::event(const MetricPoint& point, SpikeVerdict verdict, SpikeAction action,
                               std::string reason) const {
  SpikeEvent made;
  made.step = point.step;
  made.onset = state_.onset >= 0 ? state_.onset : point.step;
  made.verdict = verdict;
  made.loss = point.missing ? 0 : point.loss;
  made.action = action;
  made.reason = std::move(reason);
  if (in_warmup()) return made;
  made.baseline = state_.baseline.level;
  made.score = !point.missing && is_usable(point.loss) ? score(point.loss, point.step) : 0;
  return made;
}

}  // namespace tenax::scheduler
