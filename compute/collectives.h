// Collectives over a group of ranks, written on send and receive so that they are the same on every
// backend. Called by all members of the group with equal arguments (but for the data); blocking,
// engine's thread only. Transfers between two ranks match by tag in order of posting, so
// consecutive collectives of a group may share a tag.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "compute/communicator.h"

namespace tenax::compute {

/// The members of a collective in an order all agree on, and which of them the caller is. `ranks`
/// is not owned.
struct Group {
  std::span<const int> ranks;
  int index = 0;
  int size() const { return static_cast<int>(ranks.size()); }
};

/// Returns after every member has entered. Dissemination in ceil(log2 n) rounds (Hensgen, Finkel
/// and Manber 1988, doi:10.1007/BF01379320).
Status barrier(Communicator& comm, const Group& group, std::uint64_t tag);

/// Member i contributes bytes [offsets[i], offsets[i + 1]) of `buffer`, where they lie already; on
/// return all have all. `offsets` has n + 1 ascending values, equal on all members, the last at
/// most buffer.size(). Parts may be empty. ceil(log2 n) rounds, every byte moves once (Bruck et al.
/// 1997, doi:10.1109/71.642949).
Status all_gather_parts(Communicator& comm, const Group& group, std::uint64_t tag,
                        std::span<const std::size_t> offsets, std::span<std::byte> buffer);

/// `out` receives the members' blocks in group order: out.size() = n * mine.size(). `mine` may lie
/// at its place in `out`.
Status all_gather(Communicator& comm, const Group& group, std::uint64_t tag,
                  std::span<const std::byte> mine, std::span<std::byte> out);

/// All members get the bytes of member `root`. Small: binomial tree. Large: scattered, then
/// gathered (van de Geijn), so that no member sends more than about twice the length.
Status broadcast(Communicator& comm, const Group& group, std::uint64_t tag, int root,
                 std::span<std::byte> bytes);

/// offsets.size() - 1 nearly equal parts of [0, count), cut at multiples of `alignment`.
void even_parts(std::size_t count, std::size_t alignment, std::span<std::size_t> offsets);
/// n + 1 ascending offsets that cut [0, count) into n nearly equal parts at multiples of
/// `alignment`.
std::vector<std::size_t> even_parts(std::size_t count, int n, std::size_t alignment);

}  // namespace tenax::compute
