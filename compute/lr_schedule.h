// Learning-rate schedules: pure functions of the step, so a rollback or a restart needs no schedule
// state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tenax::compute {

enum class LrScheduleKind : std::uint8_t {
  kConstant,
  kLinear,  ///< straight to the end rate at total_steps
  kCosine,  ///< half a cosine to the end rate at total_steps (Loshchilov, Hutter, arXiv:1608.03983)
  kInverseSqrt,  ///< peak * sqrt(warmup_steps / step) (Vaswani et al., arXiv:1706.03762)
  kWsd,          ///< warm-up, stable, then linear decay over the last decay_steps (Hu et al.,
                 ///< arXiv:2404.06395)
};

struct LrScheduleOptions {
  LrScheduleKind kind = LrScheduleKind::kCosine;
  double peak = 3e-4;
  std::int64_t warmup_steps = 0;  ///< rises linearly and reaches the peak at this step
  std::int64_t total_steps = 1;   ///< where decay ends; the rate stays at its end afterwards
  std::int64_t decay_steps = 0;   ///< of kWsd
  double end_fraction = 0.1;      ///< end rate / peak, of kLinear, kCosine and kWsd

  bool operator==(const LrScheduleOptions&) const = default;
};

/// The rate of `step`, 1-based.
double learning_rate(const LrScheduleOptions& options, std::int64_t step);

/// Everything that is wrong with the options, one sentence each.
std::vector<std::string> problems(const LrScheduleOptions& options);

}  // namespace tenax::compute
