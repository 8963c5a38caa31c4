// Decisions about checkpoints: when one is complete, verified, withdrawn, deleted. Each function
// changes the state and appends what to do. Pure; called by the run controller.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "scheduler/run_commands.h"
#include "scheduler/run_events.h"
#include "scheduler/run_state.h"

namespace tenax::scheduler {

/// Notes one rank's share. When data-parallel replicas hold different bytes the checkpoint is
/// discarded and named.
void record_shard(RunState& state, const ShardWritten& shard, std::vector<Command>& out);

/// The ranks whose `digests` (by rank, of all ranks) are not those of most of their replicas,
/// ascending; of two that differ both.
std::vector<int> odd_replicas(const std::map<std::uint32_t, std::string>& digests,
                              const Degrees& degrees);

/// Commits every checkpoint that all ranks have written and whose step is counted.
void commit_complete_checkpoints(RunState& state, const ControllerOptions& options,
                                 std::vector<Command>& out);

/// Gives up what is being written and not yet committing (only the current generation's snapshots
/// are committed, G1).
void drop_unfinished_checkpoints(RunState& state, const std::string& reason,
                                 std::vector<Command>& out);

/// After a takeover: what the store has is what exists. A commit that was under way either has its
/// manifest or is given up; a manifest that the state does not know is deleted.
void reconcile_checkpoints(RunState& state, const std::vector<std::uint64_t>& manifests,
                           std::vector<Command>& out);

/// Marks checkpoints verified that were read back and have `verify_patience` calm counted steps
/// behind them.
void mark_verified(RunState& state, const ControllerOptions& options, std::vector<Command>& out);

/// An onset was placed at step `onset` of the current branch: no checkpoint at or after it is
/// sound.
void withdraw_after_onset(RunState& state, std::int64_t onset, std::vector<Command>& out);

/// Never a source again, kept as evidence until retention drops it.
void quarantine(RunState& state, std::uint64_t checkpoint_id, const std::string& reason,
                std::vector<Command>& out);

void forget_checkpoint(RunState& state, std::uint64_t checkpoint_id);

/// Applies retention (scheduler/retention.h) and deletes. Never a checkpoint of step 0, whose
/// weights were imported and come from no seed, nor one that is `in_use`.
void retire_checkpoints(RunState& state, const ControllerOptions& options,
                        const std::vector<std::uint64_t>& in_use, std::vector<Command>& out);

}  // namespace tenax::scheduler
