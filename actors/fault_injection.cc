#include "actors/fault_injection.h"

#include <bit>

namespace tenax::actors {

void FaultInjection::before_step(std::uint64_t branch, std::int64_t step,
                                 compute::Engine& engine) const {
  if (!strikes(faults_.weight_step, branch, step)) return;
  const auto& parameters = engine.parameters();
  // A matrix in the middle of the stage: every sample goes through it.
  const compute::StageParameter* hit = &parameters[parameters.size() / 2];
  for (std::size_t i = parameters.size() / 2; i < parameters.size() && !hit->spec.decay; ++i)
    hit = &parameters[i];
  float& weight = engine.values()[static_cast<std::size_t>(hit->offset + hit->size / 2)];
  weight = std::bit_cast<float>(std::bit_cast<std::uint32_t>(weight) |
                                (std::uint32_t{1} << faults_.flip_bit));
}

void FaultInjection::mark(std::uint64_t branch, std::int64_t step, int attempt,
                          std::span<compute::Microbatch> microbatches) const {
  if (attempt > 0 || microbatches.empty()) return;
  if (strikes(faults_.gradient_step, branch, step))
    microbatches.front().set_gradient_bits = std::uint32_t{1} << faults_.flip_bit;
  if (strikes(faults_.nan_step, branch, step)) microbatches.front().poison_nan = true;
}

double FaultInjection::learning_rate_factor(std::int64_t step) const {
  const bool on = faults_.learning_rate_step > 0 && step >= faults_.learning_rate_step &&
                  step - faults_.learning_rate_step < faults_.learning_rate_num_steps;
  return on ? faults_.learning_rate_factor : 1.0;
}

}  // namespace tenax::actors
