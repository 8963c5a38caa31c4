// From what the ranks hold after a failure to the plan of the next generation (docs/protocol.md: a
// step half done). Pure.
#pragma once

#include <string>
#include <vector>

#include "common/run_types.h"
#include "scheduler/run_state.h"

namespace tenax::scheduler {

struct RecoveryPlan {
  Plan plan;
  std::vector<int> seats;  ///< by rank: index into RunState::seats
  /// Reports of steps that were applied but not yet counted, ascending and without gaps up to
  /// plan.step.
  std::vector<StepReport> uncounted;
  /// One sentence: where the run goes on and who gives what to whom.
  std::string reason;
};

/// For the layout `degrees` on some of the seats `ready` (indices into state.seats, at least
/// world_size() of them, each kFresh or kStopped). The plan's generation is the state's. All ranks
/// continue from ONE step: the newest that every rank can have from its memory or a data-parallel
/// peer (with ZeRO there is no peer: each holds a part of the optimizer's state); else the newest
/// checkpoint, from slots or the store; else the initial state.
RecoveryPlan make_recovery_plan(const RunState& state, const ControllerOptions& options,
                                const Degrees& degrees, const std::vector<int>& ready);

/// What losing one rank means in this layout, for the line printed when a run starts.
std::string cost_of_a_lost_rank(const ControllerOptions& options);

}  // namespace tenax::scheduler
