// A rank's place among replicas and stages, for tests that make engines without a scheduler.
#pragma once

#include <vector>

#include "compute/engine.h"

namespace tenax::test {

struct ReplicasAndStages {
  int dp = 1;
  int pp = 1;
};

/// The groups and ranges of `rank`, layers and microbatches divided evenly; ranks count dp fastest,
/// then pp. The schedule is the caller's.
inline void lay_out(compute::EngineOptions& o, const compute::ModelOptions& model,
                    ReplicasAndStages layout, int rank, int num_microbatches) {
  const auto [dp, pp] = layout;
  o.model = model;
  o.rank = rank;
  o.stage = rank / dp;
  o.replica = rank % dp;
  o.world_size = dp * pp;
  const int layers = static_cast<int>(model.num_layers);
  for (int s = 0; s < pp; ++s)
    o.stages.push_back({layers * s / pp, layers * (s + 1) / pp, s == 0, s == pp - 1});
  for (int r = 0; r < dp; ++r) {
    o.dp_group.push_back(o.stage * dp + r);
    o.ranges.push_back({num_microbatches * r / dp, num_microbatches * (r + 1) / dp});
    std::vector<int> replica;
    for (int s = 0; s < pp; ++s) replica.push_back(s * dp + r);
    o.replicas.push_back(replica);
  }
  o.pp_group = o.replicas[static_cast<std::size_t>(o.replica)];
  o.num_microbatches = num_microbatches;
}

}  // namespace tenax::test
