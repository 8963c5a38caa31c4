// Starting points for the tests of the run controller.
#pragma once

#include <gtest/gtest.h>

#include "scheduler/exit_code.h"
#include "scheduler/run_controller.h"
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

/// The run is done and its newest checkpoint holds the weights that it must have.
inline void expect_a_clean_end(test::ControlledRun& run) {
  run.run_to_end();
  EXPECT_EQ(run.violation(), "") << run.notes();
  ASSERT_EQ(run.state.exit_code, kExitDone) << run.state.finish_reason;
  const CheckpointInfo* last = newest_checkpoint(run.state, run.state.total_steps);
  ASSERT_NE(last, nullptr);
  for (int rank = 0; rank < run.world(); ++rank) {
    EXPECT_EQ(run.stored_weights(last->id, rank), run.expected_weights(rank, last->step));
  }
}

}  // namespace tenax::scheduler
