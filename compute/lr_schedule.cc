#include "compute/lr_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tenax::compute {
namespace {

/// How much of [begin, end] lies behind `step`, from 0 to 1.
double progress(std::int64_t step, std::int64_t begin, std::int64_t end) {
  if (step >= end) return 1;
  if (step <= begin) return 0;
  return static_cast<double>(step - begin) / static_cast<double>(end - begin);
}

/// From `start` to `end`, exact at both.
double mix(double start, double end, double p) { return start * (1 - p) + end * p; }

}  // namespace

double learning_rate(const LrScheduleOptions& o, std::int64_t step) {
  if (step < o.warmup_steps)
    return o.peak * static_cast<double>(step) / static_cast<double>(o.warmup_steps);
  const double end = o.peak * o.end_fraction;
  switch (o.kind) {
    case LrScheduleKind::kConstant:
      return o.peak;
    case LrScheduleKind::kLinear:
      return mix(o.peak, end, progress(step, o.warmup_steps, o.total_steps));
    case LrScheduleKind::kCosine: {
      const double p = progress(step, o.warmup_steps, o.total_steps);
      return end + (o.peak - end) * 0.5 * (1 + std::cos(std::numbers::pi * p));
    }
    case LrScheduleKind::kInverseSqrt: {
      const auto start = static_cast<double>(std::max<std::int64_t>(o.warmup_steps, 1));
      return o.peak * std::sqrt(start / std::max(start, static_cast<double>(step)));
    }
    case LrScheduleKind::kWsd:
      return mix(o.peak, end, progress(step, o.total_steps - o.decay_steps, o.total_steps));
  }
  return o.peak;
}

std::vector<std::string> problems(const LrScheduleOptions& o) {
  std::vector<std::string> found;
  if (!(o.peak > 0) || !std::isfinite(o.peak))
    found.push_back(fmt::format("peak learning rate is {}, must be positive and finite", o.peak));
  if (o.warmup_steps < 0)
    found.push_back(fmt::format("warmup_steps is {}, must not be negative", o.warmup_steps));
  if (o.total_steps < 1)
    found.push_back(fmt::format("total_steps is {}, must be at least 1", o.total_steps));
  if (o.warmup_steps > o.total_steps)
    found.push_back(
        fmt::format("warmup_steps {} exceed total_steps {}", o.warmup_steps, o.total_steps));
  if (!(o.end_fraction >= 0 && o.end_fraction <= 1))
    found.push_back(fmt::format("end_fraction is {}, must be between 0 and 1", o.end_fraction));
  if (o.kind == LrScheduleKind::kWsd &&
      (o.decay_steps < 1 || o.warmup_steps + o.decay_steps > o.total_steps))
    found.push_back(fmt::format(
        "decay_steps is {}, must be at least 1 and fit with {} warm-up steps into {} steps",
        o.decay_steps, o.warmup_steps, o.total_steps));
  return found;
}

}  // namespace tenax::compute
