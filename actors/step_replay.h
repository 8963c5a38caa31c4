// Computes steps of a run again, in one process and from a checkpoint, and compares them with what
// was journalled: the loss of every replica, the gradient norm, and the weights of every checkpoint
// on the way. All of them are the same bits in every layout (docs/numerics.md), so a difference is
// somebody's wrong computation. Reads the run's directory only; the run may be alive.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "actors/run_directory.h"
#include "common/result.h"
#include "common/run_types.h"
#include "scheduler/run_events.h"

namespace tenax::actors {

struct ReplayOptions {
  RunDirectory directory{""};
  /// Where to begin; 0 with `from` 0: the initial weights. Without a value: the newest checkpoint
  /// of the current branch before `to`.
  std::optional<std::uint64_t> checkpoint_id;
  std::int64_t to = 0;
  std::uint64_t id = 0;  ///< for the result
  /// Called after each step that agrees.
  std::function<void(const StepReport& replayed)> on_step = {};
};

/// What was compared up to the first difference. kNotFound: no such run, checkpoint or journalled
/// step; kDataLoss if the token file is not what was written; errors of reading.
Result<scheduler::ReplayEnded> replay_steps(const ReplayOptions& options);

}  // namespace tenax::actors
