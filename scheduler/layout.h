// Who sits where: ranks and their coordinates on the (dp, tp, pp) mesh, and which layers a stage
// holds. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "common/run_types.h"

namespace tenax::scheduler {

/// A rank's place. Ranks count tp fastest, then dp, then pp, so that neighbouring ranks (usually
/// one host) share the heaviest traffic (Narayanan et al. 2021, doi:10.1145/3458817.3476209,
/// section 3).
struct Coordinates {
  int dp = 0;
  int tp = 0;
  int pp = 0;
  bool operator==(const Coordinates&) const = default;
};

Coordinates coordinates_of(const Degrees& degrees, int rank);
int rank_of(const Degrees& degrees, const Coordinates& c);

/// Ranks with the same stage and tensor shard, in dp order: they hold the same weights.
std::vector<int> data_parallel_group(const Degrees& degrees, int rank);
/// Ranks that share the matrices of one stage of one replica, in the order of their parts.
std::vector<int> tensor_parallel_group(const Degrees& degrees, int rank);
/// Ranks of one replica and part of the matrices, in stage order.
std::vector<int> pipeline_group(const Degrees& degrees, int rank);

struct LayerRange {
  int first = 0;
  int end = 0;
  bool operator==(const LayerRange&) const = default;
};
/// What a stage does in a step besides its layers, in units of one layer.
struct EndCosts {
  double embedding = 0;  ///< of the first stage
  double head = 0;       ///< of the last stage
};
/// Splits `layers` transformer layers over `stages`, at least one each, so that the slowest rank
/// costs as little as whole layers allow; with `num_chunks` above 1 the stages are virtual, and
/// stage s is a chunk of rank s % (stages / num_chunks). Of equal ways the middle ranks get more
/// layers than the first, and that more than the last; a rank's chunks are as even as they can be.
std::vector<LayerRange> split_layers(int layers, int stages, const EndCosts& ends = {},
                                     int num_chunks = 1);

/// The half-open range of items that member `index` of `parts` takes of `total`, as even as
/// possible, in order.
struct IndexRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};
IndexRange even_share(std::int64_t total, int parts, int index);

}  // namespace tenax::scheduler
