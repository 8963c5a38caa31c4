// The whole of an accumulator reduced at once, in segments of which one is added while the next is
// on its way: what tests and benchmarks of the tree need. (The engine reduces bucket by bucket.)
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "compute/tree_reduce.h"

namespace tenax::test {

/// Member i sums elements [parts[i], parts[i + 1]); with `gather` all get all sums. On an error
/// `out` is garbage and the communicator dead.
inline Status reduce_whole(compute::TreeReducer& reducer, compute::Communicator& comm,
                           const compute::Group& group, std::uint64_t tag,
                           const compute::TreeAccumulator& mine, std::span<const std::size_t> parts,
                           std::span<float> out, bool gather) {
  constexpr std::size_t kSegment = 262144;
  const std::size_t n = parts.size() - 1;
  std::size_t longest = 0;
  for (std::size_t i = 0; i < n; ++i) longest = std::max(longest, parts[i + 1] - parts[i]);
  const std::size_t segment = std::min(reducer.max_piece(), kSegment);
  std::vector<compute::TreeReduction> segments;
  for (std::size_t at = 0; at < longest; at += segment) {
    // Two members may post a segment's gathering and another's sums in different order.
    compute::TreeReduction s{&mine, out, {}, gather, tag + (segments.size() << 48)};
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t begin = std::min(parts[i] + at, parts[i + 1]);
      s.pieces.push_back({begin, std::min(begin + segment, parts[i + 1])});
    }
    segments.push_back(std::move(s));
  }
  const std::size_t on_their_way = std::min<std::size_t>(segments.size(), 2);
  reducer.reserve(reducer.wanted_bytes(std::span(segments).first(on_their_way)), segments.size());
  for (const compute::TreeReduction& s : segments) {
    if (Status started = reducer.start(comm, group, s); !started) {
      reducer.abandon();
      return started;
    }
  }
  return reducer.finish(comm, group);
}

}  // namespace tenax::test
