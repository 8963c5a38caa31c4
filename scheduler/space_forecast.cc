#include "scheduler/space_forecast.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace tenax::scheduler {

namespace {

/// Checkpoints at `step` and before that keep_every keeps for good.
std::int64_t kept_for_good(const SpaceFacts& f, std::int64_t step) {
  return f.keep_every > 0 ? step / std::lcm(f.keep_every, f.interval) : 0;
}

/// How many more checkpoints than now lie on the disk while the save after `saves` others is being
/// written.
std::int64_t growth(const SpaceFacts& f, std::int64_t saves) {
  const std::int64_t passing =
      f.num_checkpoints - std::min(f.num_checkpoints, kept_for_good(f, f.step));
  const std::int64_t most = std::max<std::int64_t>(1, f.keep_last) + f.keep_verified;
  const std::int64_t for_good =
      kept_for_good(f, f.step + saves * f.interval) - kept_for_good(f, f.step);
  return std::min(passing + saves, most) - passing + for_good + 1;
}

}  // namespace

SpaceForecast forecast_space(const SpaceFacts& f) {
  if (f.interval <= 0 || f.checkpoint_bytes == 0 || f.step >= f.total_steps) return {};
  const auto fits = static_cast<std::int64_t>(f.free_bytes / f.checkpoint_bytes);
  const std::int64_t saves = (f.total_steps - f.step + f.interval - 1) / f.interval;
  std::int64_t low = 0;  // this many saves fit; growth() rises with the number of saves
  std::int64_t high = saves;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (growth(f, middle) > fits) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  if (low == saves) return {};
  return {true, low, std::min(f.total_steps, f.step + (low + 1) * f.interval)};
}

bool worth_saying(const SpaceForecast& forecast) {
  if (!forecast.fills || forecast.saves_left > 64) return false;
  return forecast.saves_left == 0 ||
         std::has_single_bit(static_cast<std::uint64_t>(forecast.saves_left));
}

}  // namespace tenax::scheduler
