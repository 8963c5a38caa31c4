#include "compute/adamw.h"

#include <fmt/format.h>

#include <cmath>

#include "common/check.h"
#include "compute/adamw_factors.h"
#include "compute/cpu/vector_ops.h"

namespace tenax::compute {

void adamw_update(const AdamwOptions& options, const AdamwStep& step, const AdamwRange& range,
                  cpu::Isa isa) {
  TENAX_CHECK(step.step >= 1);
  TENAX_CHECK(range.gradient.size() == range.values.size() &&
              range.m.size() == range.values.size() && range.v.size() == range.values.size());
  cpu::AdamwCall call;
  call.count = static_cast<std::int64_t>(range.values.size());
  call.values = range.values.data();
  call.gradient = range.gradient.data();
  call.m = range.m.data();
  call.v = range.v.data();
  set_factors(options, step, call);
  if (!range.decay) call.decay = 0;
  cpu::vector_ops(isa).adamw(call);
}

std::vector<std::string> problems(const AdamwOptions& o) {
  std::vector<std::string> found;
  const auto fraction = [&](const char* name, double value) {
    if (!(value >= 0 && value < 1))
      found.push_back(fmt::format("{} is {}, must be at least 0 and below 1", name, value));
  };
  fraction("beta1", o.beta1);
  fraction("beta2", o.beta2);
  if (!(o.epsilon > 0) || !std::isfinite(o.epsilon))
    found.push_back(fmt::format("epsilon is {}, must be positive and finite", o.epsilon));
  if (!(o.weight_decay >= 0) || !std::isfinite(o.weight_decay))
    found.push_back(
        fmt::format("weight_decay is {}, must be zero or positive and finite", o.weight_decay));
  return found;
}

}  // namespace tenax::compute
