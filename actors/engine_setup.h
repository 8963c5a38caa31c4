// From a run's configuration to the options of one rank's engine: where the layout of scheduler/
// meets the engine of compute/. Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "actors/run_directory.h"
#include "common/run_types.h"
#include "compute/cuda_device.h"
#include "compute/engine.h"
#include "compute/lr_schedule.h"
#include "configs/run_config.h"

namespace tenax::actors {

compute::EngineOptions engine_options(const configs::RunConfig& config,
                                      std::int64_t vocabulary_size, const Degrees& degrees,
                                      int rank);

/// How a rank goes through a global batch of so many microbatches.
compute::Engine::Batch batch_of(const configs::RunConfig& config, const Degrees& degrees, int rank,
                                int num_microbatches);
/// Lets the engine's next step have so many microbatches (train.batch_ramp).
Status use_batch_of(compute::Engine& engine, const configs::RunConfig& config,
                    const Degrees& degrees, int num_microbatches);

/// Of `num_microbatches` held-out microbatches, those that this rank's replica computes.
compute::MicrobatchRange heldout_share(const compute::EngineOptions& options, int num_microbatches);
/// The forward-only schedule of that share.
PipelineSchedule forward_schedule(const compute::EngineOptions& options, int num_microbatches);

compute::LrScheduleOptions lr_schedule_of(const configs::RunConfig& config);

Degrees degrees_of(const configs::RunConfig& config);

/// kUnsupported where this processor computes other bits than the run was begun with.
Status check_arithmetic(const RunDirectory& directory, const configs::RunConfig& config,
                        const compute::CudaDevice* gpu);
/// What the bits of a run depend on besides its configuration, of the GPU that computes or, where
/// there is none, of the processor.
std::string arithmetic_of(const configs::RunConfig& config, const compute::CudaDevice* gpu);
/// The same of a GPU that is not opened.
std::string gpu_arithmetic(const configs::RunConfig& config, const compute::CudaPlugin& plugin,
                           const tenax_cuda_device_info& info);

}  // namespace tenax::actors
