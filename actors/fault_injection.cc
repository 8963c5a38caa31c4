#include "actors/fault_injection.h"

#include <bit>
#include <vector>

namespace tenax::actors {

Status FaultInjection::before_step(std::uint64_t branch, std::int64_t step, compute::Engine& engine,
                                   compute::CudaDevice* gpu) {
  if (strikes_early(faults_.hang_step, branch, step)) {
    const volatile bool hangs = true;
    while (hangs) {
    }
  }
  if (gpu != nullptr && strikes_early(faults_.gpu_step, branch, step))
    TENAX_RETURN_IF_ERROR(strike(*gpu));
  if (!flipped_ && strikes(faults_.weight_step, branch, step)) flip_weight(engine);
  return {};
}

Status FaultInjection::strike(compute::CudaDevice& gpu) const {
  switch (faults_.gpu_kind) {
    case configs::GpuFault::kHang:
      gpu.queue(gpu.plugin().run_spin, faults_.gpu_hang_seconds);
      return {};
    case configs::GpuFault::kBadStore:
      gpu.queue(gpu.plugin().run_bad_store);
      return {};
    case configs::GpuFault::kOutOfMemory: {
      TENAX_TRY(const auto memory,
                gpu.allocate_bytes(2 * gpu.info().memory_bytes, "a fault on purpose"));
      return {};
    }
  }
  return {};
}

void FaultInjection::flip_weight(compute::Engine& engine) {
  flipped_ = true;
  const auto& parameters = engine.parameters();
  // A matrix in the middle of the stage: every sample goes through it.
  const compute::StageParameter* hit = &parameters[parameters.size() / 2];
  for (std::size_t i = parameters.size() / 2; i < parameters.size() && !hit->spec.decay; ++i)
    hit = &parameters[i];
  const std::span<float> tensor = engine.values().subspan(static_cast<std::size_t>(hit->offset),
                                                          static_cast<std::size_t>(hit->size));
  const std::span<float> half = tensor.subspan(tensor.size() / 2);
  std::vector<float> weights(half.size());
  engine.device().read(half, weights);
  const std::uint32_t bit = std::uint32_t{1} << faults_.flip_bit;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(weights[i]);
    if ((bits & bit) != 0) continue;
    const float flipped = std::bit_cast<float>(bits | bit);
    engine.device().write({&flipped, 1}, half.subspan(i, 1));
    return;
  }
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
