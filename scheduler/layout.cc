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

std::vector<LayerRange> split_layers(int layers, int stages) {
  TENAX_CHECK(stages >= 1 && layers >= stages);
  std::vector<LayerRange> ranges;
  int first = 0;
  for (int s = 0; s < stages; ++s) {
    // Middle stages take the remainder first: the outer two also hold the embedding and the head.
    const int rest = layers % stages;
    const int order = s == stages - 1 ? stages - 1 : (s == 0 ? stages - 2 : s - 1);
    const int size = layers / stages + ((stages > 1 ? order : 0) < rest ? 1 : 0);
    ranges.push_back({first, first + size});
    first += size;
  }
  TENAX_CHECK(first == layers);
  return ranges;
}

IndexRange even_share(std::int64_t total, int parts, int index) {
  const std::int64_t base = total / parts;
  const std::int64_t rest = total % parts;
  const std::int64_t begin = index * base + std::min<std::int64_t>(index, rest);
  return {begin, begin + base + (index < rest ? 1 : 0)};
}

}  // namespace tenax::scheduler
