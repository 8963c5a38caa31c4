// Faults that a run commits on purpose ([faults] of its recipe), for demonstrations and tests: what
// a bad device or a bug would do, at a named step of a named rank. A device's fault happens once:
// on branch 0 and in the first computation of the step, so that what is computed again is right;
// after a restart it happens again at the same step, so that an interrupted run stays the same run.
// What ends a process or a generation strikes in the first generations only: it would never be
// over. Poisoned samples are data (data/poison.h), not devices. Confined to the engine's thread.
#pragma once

#include <cstdint>
#include <span>

#include "compute/cuda_device.h"
#include "compute/engine.h"
#include "configs/run_config.h"

namespace tenax::actors {

class FaultInjection {
 public:
  /// At the start of a generation.
  void set(const configs::FaultsSection& faults, int rank, std::uint64_t generation) {
    faults_ = faults;
    rank_ = rank;
    generation_ = generation;
  }
  /// The rank's weights came from elsewhere: what was flipped in them is gone.
  void weights_replaced() { flipped_ = false; }

  /// Flips a bit from 0 to 1 in one of the rank's weights before `step`; not again if the step is
  /// begun again with the same weights. Does not return from a step that hangs. Faults of `gpu`
  /// (null: the CPU computes) are queued before the step; kNoSpace is one of them.
  Status before_step(std::uint64_t branch, std::int64_t step, compute::Engine& engine,
                     compute::CudaDevice* gpu);
  /// Marks a microbatch whose gradients are to be wrong in this computation of `step`; `attempt` is
  /// 0 for the first one.
  void mark(std::uint64_t branch, std::int64_t step, int attempt,
            std::span<compute::Microbatch> microbatches) const;
  /// The factor of a learning-rate bug: of the software, so on every branch and rank.
  double learning_rate_factor(std::int64_t step) const;

 private:
  bool strikes(std::int64_t fault_step, std::uint64_t branch, std::int64_t step) const {
    return fault_step > 0 && step == fault_step && branch == 0 && rank_ == faults_.rank;
  }
  bool strikes_early(std::int64_t fault_step, std::uint64_t branch, std::int64_t step) const {
    return strikes(fault_step, branch, step) &&
           generation_ <= static_cast<std::uint64_t>(faults_.hang_generations);
  }
  Status strike(compute::CudaDevice& gpu) const;
  void flip_weight(compute::Engine& engine);

  configs::FaultsSection faults_;
  int rank_ = 0;
  std::uint64_t generation_ = 0;
  bool flipped_ = false;
};

}  // namespace tenax::actors
