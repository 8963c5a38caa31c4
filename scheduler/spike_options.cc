#include "scheduler/spike_options.h"

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace tenax::scheduler {

Status validate(const SpikeOptions& options) {
  std::string wrong;
  const auto require = [&](bool holds, std::string_view what) {
    if (!holds) wrong += fmt::format("{}{}", wrong.empty() ? "" : "; ", what);
  };
  require(options.window >= 8 && options.window <= 4096, "window must be in [8, 4096]");
  require(options.warmup_samples >= 0, "warmup_samples must not be negative");
  require(options.sigmas > 0, "sigmas must be positive");
  require(options.min_relative_rise >= 0, "min_relative_rise must not be negative");
  require(options.min_rise >= 0, "min_rise must not be negative");
  require(options.min_rise > 0 || options.min_relative_rise > 0,
          "min_rise or min_relative_rise must be positive");
  require(options.release_fraction > 0 && options.release_fraction <= 1,
          "release_fraction must be in (0, 1]");
  require(options.ramp_tolerance >= 1, "ramp_tolerance must be at least 1");
  require(options.grad_norm_factor > 1, "grad_norm_factor must be above 1");
  require(options.confirm_of >= 2 && options.confirm_of <= 64, "confirm_of must be in [2, 64]");
  require(options.confirm_count >= 1 && options.confirm_count <= options.confirm_of,
          "confirm_count must be in [1, confirm_of]");
  require(options.recovery_samples >= 1 && options.recovery_samples <= options.window,
          "recovery_samples must be in [1, window]");
  require(options.patience >= 1 && options.patience <= 64, "patience must be in [1, 64]");
  require(options.patience_share > 0 && options.patience_share <= 1,
          "patience_share must be in (0, 1]");
  require(options.divergence_samples >= 1, "divergence_samples must be positive");
  require(options.divergence_share > 0, "divergence_share must be positive");
  require(options.adopt_samples >= 8, "adopt_samples must be at least 8");
  require(options.non_finite_patience >= 1, "non_finite_patience must be positive");
  require(options.overflow_burst >= 1 && options.overflow_burst <= 8,
          "overflow_burst must be in [1, 8]");
  require(options.missing_patience >= 1, "missing_patience must be positive");
  require(options.shift_block >= 8, "shift_block must be at least 8");
  require(options.shift_history >= 2, "shift_history must be at least 2");
  require(options.shift_sigmas > 0, "shift_sigmas must be positive");
  require(options.min_shift >= 0, "min_shift must not be negative");
  require(options.drop_sigmas > 0, "drop_sigmas must be positive");
  require(options.drop_relative >= 0, "drop_relative must not be negative");
  require(options.drop_confirm >= 1, "drop_confirm must be positive");
  require(options.resume_hold >= 0, "resume_hold must not be negative");
  require(options.restore_sigmas > 0, "restore_sigmas must be positive");
  require(options.cooldown_samples >= 0, "cooldown_samples must not be negative");
  require(options.replay_steps >= 0, "replay_steps must not be negative");
  require(options.margin_steps >= 1, "margin_steps must be positive");
  require(options.region_steps >= 0, "region_steps must not be negative");
  require(options.max_rollbacks_per_region >= 0, "max_rollbacks_per_region must not be negative");
  require(options.max_rollbacks >= 0, "max_rollbacks must not be negative");
  require(options.max_skipped_fraction >= 0 && options.max_skipped_fraction <= 1,
          "max_skipped_fraction must be in [0, 1]");
  require(options.max_restore_failures >= 0, "max_restore_failures must not be negative");
  require(options.soften_lr_factor > 0 && options.soften_lr_factor <= 1,
          "soften_lr_factor must be in (0, 1]");
  require(options.soften_steps >= 0, "soften_steps must not be negative");
  if (wrong.empty()) return {};
  return make_error(ErrorCode::kInvalidArgument, "spike options: " + wrong);
}

}  // namespace tenax::scheduler
