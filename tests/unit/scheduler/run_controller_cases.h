// Starting points for the tests of the run controller.
#pragma once

#include "tests/support/controlled_run.h"

namespace tenax::scheduler {

inline test::ControlledRunOptions run_of(int dp, int pp, int num_agents = 1) {
  test::ControlledRunOptions o;
  o.controller.degrees.dp = dp;
  o.controller.degrees.pp = pp;
  o.controller.num_agents = num_agents;
  o.controller.global_batch_size = 4;
  o.controller.verify_patience = 2;
  o.controller.spikes.spikes.margin_steps = 2;
  o.controller.spikes.spikes.max_skipped_fraction = 1;
  return o;
}

inline std::vector<SourceKind> kinds(const Plan& plan) {
  std::vector<SourceKind> k;
  for (const RankSource& s : plan.sources) k.push_back(s.kind);
  return k;
}

}  // namespace tenax::scheduler
