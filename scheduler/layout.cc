#include "scheduler/layout.h"

#include <algorithm>

#include "common/check.h"

namespace tenax::scheduler {

Coordinates coordinates_of(const Degrees& d, int rank) {
  TENAX_CHECK(rank >= 0 && rank < d.world_size());
  return {(rank / d.tp) % d.dp, rank % d.tp, rank / (d.tp * d.dp)};
}

int rank_of(const Degrees& d, const Coordinates& c) { return c.tp + d.tp * (c.dp + d.dp * c.pp); }

std::vector<int> data_parallel_group(const Degrees& d, int rank) {
  Coordinates c = coordinates_of(d, rank);
  std::vector<int> group;
  for (c.dp = 0; c.dp < d.dp; ++c.dp) group.push_back(rank_of(d, c));
  return group;
}

std::vector<int> tensor_parallel_group(const Degrees& d, int rank) {
  Coordinates c = coordinates_of(d, rank);
  std::vector<int> group;
  for (c.tp = 0; c.tp < d.tp; ++c.tp) group.push_back(rank_of(d, c));
  return group;
}

std::vector<int> pipeline_group(const Degrees& d, int rank) {
  Coordinates c = coordinates_of(d, rank);
  std::vector<int> group;
  for (c.pp = 0; c.pp < d.pp; ++c.pp) group.push_back(rank_of(d, c));
  return group;
}

std::vector<LayerRange> split_layers(int layers, int stages, const EndCosts& ends, int num_chunks) {
  TENAX_CHECK(stages >= 1 && layers >= stages && stages % num_chunks == 0);
  const int num_ranks = stages / num_chunks;
  std::vector<int> sizes(static_cast<std::size_t>(stages), 1);
  const auto stage_cost = [&](int s) {
    return sizes[static_cast<std::size_t>(s)] + (s == 0 ? ends.embedding : 0) +
           (s == stages - 1 ? ends.head : 0);
  };
  const auto rank_cost = [&](int rank) {
    double cost = 0;
    for (int s = rank; s < stages; s += num_ranks) cost += stage_cost(s);
    return cost;
  };
  // Each further layer goes to the rank that costs least: layers are equal, so no other way has a
  // cheaper slowest rank.
  for (int rest = layers - stages; rest > 0; --rest) {
    int rank = num_ranks - 1;
    if (rank_cost(0) <= rank_cost(rank)) rank = 0;
    for (int r = num_ranks - 1; r-- > 1;) {
      if (rank_cost(r) <= rank_cost(rank)) rank = r;
    }
    int stage = rank;
    for (int s = rank; s < stages; s += num_ranks) {
      if (stage_cost(s) < stage_cost(stage)) stage = s;
    }
    ++sizes[static_cast<std::size_t>(stage)];
  }
  std::vector<LayerRange> ranges;
  int first = 0;
  for (const int size : sizes) {
    ranges.push_back({first, first + size});
    first += size;
  }
  return ranges;
}

IndexRange even_share(std::int64_t total, int parts, int index) {
  const std::int64_t base = total / parts;
  const std::int64_t rest = total % parts;
  const std::int64_t begin = index * base + std::min<std::int64_t>(index, rest);
  return {begin, begin + base + (index < rest ? 1 : 0)};
}

}  // namespace tenax::scheduler
