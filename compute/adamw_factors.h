// What an AdamW step is made of on every device, to the same bits.
#pragma once

#include <cmath>

#include "compute/adamw.h"

namespace tenax::compute {

/// Sets the numbers of a kernel's `call` that are the same for all elements; `decay` is that of
/// elements that decay.
template <class Call>
void set_factors(const AdamwOptions& options, const AdamwStep& step, Call& call) {
  const auto t = static_cast<double>(step.step);
  call.gradient_scale = static_cast<float>(step.gradient_scale);
  call.beta1 = static_cast<float>(options.beta1);
  call.beta2 = static_cast<float>(options.beta2);
  call.epsilon = static_cast<float>(options.epsilon);
  call.step_size = static_cast<float>(step.learning_rate / (1 - std::pow(options.beta1, t)));
  call.inverse_sqrt_bias2 = static_cast<float>(1 / std::sqrt(1 - std::pow(options.beta2, t)));
  call.decay = static_cast<float>(step.learning_rate * options.weight_decay);
}

}  // namespace tenax::compute
