// From a run's configuration to the options of one rank's engine: where the layout of scheduler/
// meets the engine of compute/. Pure functions.
#pragma once

#include <cstdint>

#include "common/run_types.h"
#include "compute/engine.h"
#include "compute/lr_schedule.h"
#include "configs/run_config.h"

namespace tenax::actors {

compute::EngineOptions engine_options(const configs::RunConfig& config,
                                      std::int64_t vocabulary_size, const Degrees& degrees,
                                      int rank);

/// Of `num_microbatches` held-out microbatches, those that this rank's replica computes.
compute::MicrobatchRange heldout_share(const compute::EngineOptions& options, int num_microbatches);
/// The forward-only schedule of that share.
PipelineSchedule forward_schedule(const compute::EngineOptions& options, int num_microbatches);

compute::LrScheduleOptions lr_schedule_of(const configs::RunConfig& config);

Degrees degrees_of(const configs::RunConfig& config);

}  // namespace tenax::actors
