// Which worker plays which rank of a new generation, so that as few weights as possible move. Pure
// functions.
#pragma once

#include <cstdint>
#include <vector>

#include "common/run_types.h"
#include "scheduler/run_state.h"

namespace tenax::scheduler {

/// Whether a rank that reported `held` has in memory what `rank` of `degrees` needs: the same
/// stage of as many, whichever replica it was. With ZeRO (`zero` above 0) the replicas are as
/// different as the stages, so it must have been that rank of that layout.
bool holds_shard_of(const RankState& held, const Degrees& degrees, int rank, int zero = 0);

/// For each rank of `degrees` the index of its seat among `ready` (indices into state.seats), at
/// least as many as there are ranks. `has_weights[i]`: seat ready[i] can stand at the step where
/// the run goes on. Seats with a rank's weights come first, those that played the rank before all
/// others; then the order of seats.
std::vector<int> assign_ranks(const RunState& state, const Degrees& degrees,
                              const std::vector<int>& ready, const std::vector<bool>& has_weights,
                              int zero = 0);

/// Whether the ranks that stay, those on seats for which `stays` holds, have all weights of the
/// layout `next` in memory.
bool memory_suffices(const RunState& state, const Degrees& next, const std::vector<bool>& stays,
                     int zero = 0);

}  // namespace tenax::scheduler
