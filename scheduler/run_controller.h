// The run controller: the one place where decisions are made. A deterministic function of (state,
// event, now): no clock, thread, socket, file or random device. The supervisor actor feeds it,
// journals what it says and carries it out; tests and the replay of a journal call it directly.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "scheduler/run_commands.h"
#include "scheduler/run_events.h"
#include "scheduler/run_state.h"

namespace tenax::scheduler {

struct JournalEntry;

/// Immutable after construction; any thread.
class RunController {
 public:
  explicit RunController(ControllerOptions options);

  /// Changes `state` by `event` and returns what to do now. An event that is fenced off (older
  /// generation, unknown incarnation) or changes nothing returns no command.
  std::vector<Command> decide(RunState& state, const Event& event, Time now) const;

  /// Brings the state saved with the last decision up to date with the journal's newest entries:
  /// what follows that decision changed the state without one, and deciding again gives the same.
  void catch_up(RunState& state, std::span<const JournalEntry> entries) const;

  /// When TimerFired must be delivered at the latest, if nothing else happens.
  std::optional<Time> next_deadline(const RunState& state) const;

  const ControllerOptions& options() const { return options_; }

 private:
  ControllerOptions options_;
};

/// Whether a checkpoint of (branch, step) lies on the ancestry of the state's current branch.
bool on_ancestry(const RunState& state, std::uint64_t branch, std::int64_t step);

/// The newest committed, unquarantined checkpoint on the current branch's ancestry at or before
/// `step`.
const CheckpointInfo* newest_checkpoint(const RunState& state, std::int64_t step);

}  // namespace tenax::scheduler
