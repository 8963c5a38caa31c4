// The run controller's state as of a journal's end, for commands that decide something themselves
// while no supervisor runs, or that only look.
#pragma once

#include <cstdint>

#include "checkpoint/store_view.h"
#include "common/result.h"
#include "scheduler/run_controller.h"

namespace tenax::tools {

struct RunStateAtEnd {
  scheduler::RunState state;
  std::uint64_t last_seq = 0;
};

/// The state saved with the last decision, brought up to date with what was journalled since.
/// kNotFound if the run has no journal yet; errors of the store.
Result<RunStateAtEnd> read_run_state(const checkpoint::StoreView& store,
                                     const scheduler::RunController& controller);

}  // namespace tenax::tools
