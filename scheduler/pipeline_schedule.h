// Pipeline schedules as data: what one stage does in one step. Pure functions.
//   GPipe: Huang et al. 2019, arXiv 1811.06965. 1F1B (PipeDream-Flush): Narayanan et al. 2021,
//   arXiv 2006.09503.
#pragma once

#include <string_view>

#include "common/pipeline_action.h"

namespace tenax::scheduler {

enum class ScheduleKind { kGpipe, kOneForwardOneBackward };

/// The actions of `stage` (of `num_stages`) for `num_microbatches`, in order. Uses max_slots(...)
/// activation slots.
PipelineSchedule make_schedule(ScheduleKind kind, int stage, int num_stages, int num_microbatches);

/// Forward only, one microbatch at a time, slot 0: evaluation.
PipelineSchedule make_forward_schedule(int stage, int num_stages, int num_microbatches);

/// Activation slots the schedule needs: for 1F1B at most num_stages - stage, for GPipe
/// num_microbatches.
int max_slots(ScheduleKind kind, int stage, int num_stages, int num_microbatches);

}  // namespace tenax::scheduler
