// Pipeline schedules as data: what one stage does in one step. Pure functions.
//   GPipe: Huang et al. 2019, arXiv 1811.06965. 1F1B (PipeDream-Flush): Narayanan et al. 2021,
//   arXiv 2006.09503. Interleaved 1F1B: Narayanan et al. 2021, doi:10.1145/3458817.3476209,
//   section 2.2.
#pragma once

#include <string_view>

#include "common/pipeline_action.h"

namespace tenax::scheduler {

enum class ScheduleKind { kGpipe, kOneForwardOneBackward };

/// The ranks of a pipeline, and how many chunks of the model each holds: chunk c of rank s is
/// virtual stage c * num_stages + s.
struct Pipeline {
  int num_stages = 1;
  int num_chunks = 1;  ///< above 1 (interleaved 1F1B): num_stages is above 1 too
};

/// The actions of rank `stage` for `num_microbatches`, in order. More than one chunk is built for
/// 1F1B. Uses num_slots(...) activation slots of each chunk.
PipelineSchedule make_schedule(ScheduleKind kind, const Pipeline& pipeline, int stage,
                               int num_microbatches);

/// Forward only: evaluation. Slots mean nothing.
PipelineSchedule make_forward_schedule(const Pipeline& pipeline, int stage, int num_microbatches);

/// Boundary tensors that a rank must be able to have on their way to each neighbour, for each chunk
/// and direction, so that nobody waits for ever.
int num_outboxes(const Pipeline& pipeline, int num_microbatches);

/// Activation slots of a chunk that the schedule uses, at least 1.
int num_slots(const PipelineSchedule& schedule, int chunk);

}  // namespace tenax::scheduler
