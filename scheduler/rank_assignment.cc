#include "scheduler/rank_assignment.h"

#include <algorithm>

#include "common/check.h"
#include "scheduler/layout.h"

namespace tenax::scheduler {

namespace {

/// What ranks of one data-parallel group have in common.
int shard_of(const Degrees& degrees, int rank) {
  const Coordinates c = coordinates_of(degrees, rank);
  return c.pp * degrees.tp + c.tp;
}

}  // namespace

bool holds_shard_of(const RankState& held, const Degrees& degrees, int rank, int zero) {
  if (zero > 0) return held.has_weights && held.rank == rank && held.degrees == degrees;
  if (!held.has_weights || held.rank < 0 || held.rank >= held.degrees.world_size()) return false;
  return held.degrees.pp == degrees.pp && held.degrees.tp == degrees.tp &&
         shard_of(held.degrees, held.rank) == shard_of(degrees, rank);
}

std::vector<int> assign_ranks(const RunState& state, const Degrees& degrees,
                              const std::vector<int>& ready, const std::vector<bool>& has_weights,
                              int zero) {
  const int world = degrees.world_size();
  TENAX_CHECK(ready.size() >= static_cast<std::size_t>(world));
  std::vector<int> seats(static_cast<std::size_t>(world), -1);
  std::vector<bool> taken(ready.size(), false);
  const auto give = [&](int rank, auto suits) {
    int& seat = seats[static_cast<std::size_t>(rank)];
    for (std::size_t i = 0; i < ready.size() && seat < 0; ++i) {
      if (taken[i] || !suits(i)) continue;
      taken[i] = true;
      seat = ready[i];
    }
  };
  const auto holds = [&](std::size_t i, int rank) {
    return has_weights[i] && holds_shard_of(state.seats[ready[i]].held, degrees, rank, zero);
  };
  const auto played = [&](std::size_t i, int rank) { return state.seats[ready[i]].rank == rank; };
  // A pass over all ranks before the next: nobody loses its place to a rank with a weaker claim.
  for (int r = 0; r < world; ++r) give(r, [&](auto i) { return holds(i, r) && played(i, r); });
  for (int r = 0; r < world; ++r) give(r, [&](auto i) { return holds(i, r); });
  for (int r = 0; r < world; ++r) give(r, [&](auto i) { return played(i, r); });
  for (int r = 0; r < world; ++r) give(r, [](auto) { return true; });
  return seats;
}

bool memory_suffices(const RunState& state, const Degrees& next, const std::vector<bool>& stays,
                     int zero) {
  const Degrees& now = state.degrees;
  if (zero > 0) {
    for (std::size_t i = 0; i < state.seats.size(); ++i) {
      if (state.seats[i].rank >= 0 && !stays[i]) return false;
    }
    return now == next;
  }
  if (now.pp != next.pp || now.tp != next.tp) return false;
  std::vector<bool> held(static_cast<std::size_t>(now.pp * now.tp), false);
  for (std::size_t i = 0; i < state.seats.size(); ++i) {
    if (stays[i] && state.seats[i].rank >= 0) held[shard_of(now, state.seats[i].rank)] = true;
  }
  return std::all_of(held.begin(), held.end(), [](bool h) { return h; });
}

}  // namespace tenax::scheduler
