// Engines of every layout against one process: the same bits, or a derived bound
// (docs/numerics.md).
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/engine_world.h"

namespace tenax::test {
namespace {

/// Four layers; embedding and matrices have several chunks of the gradient norm, so that shards cut
/// through tensors.
WorldOptions world_options() {
  WorldOptions o;
  configs::RunConfig& c = o.config;
  c.model.width = 48;
  c.model.num_layers = 4;
  c.model.num_heads = 4;
  c.model.num_kv_heads = 2;
  c.train.sequence_length = 12;
  c.train.global_batch_size = 12;
  c.train.microbatch_size = 1;
  c.optimizer.clip_norm = 0.5;
  return o;
}

TEST(LayoutGrid, AShardedOptimizerGivesTheBitsOfOneProcess) {
  for (const bool tied : {true, false}) {
    WorldOptions o = world_options();
    o.config.model.tied_output = tied;
    const TrainedWorld alone = train_world(o);
    for (int pp = 1; pp <= 2; ++pp) {
      for (int dp = 1; dp <= 4; ++dp) {
        SCOPED_TRACE(testing::Message() << "dp " << dp << " pp " << pp << " tied " << tied);
        o.config.layout.data_parallel = dp;
        o.config.layout.pipeline_parallel = pp;
        o.config.layout.zero = 1;
        expect_same_bits(train_world(o), alone);
      }
    }
  }
}

TEST(LayoutGrid, AReplicaThatStoppedBeforeItHadTheOthersWeightsGetsThem) {
  WorldOptions o = world_options();
  o.config.layout.data_parallel = 3;
  o.config.layout.zero = 1;
  const TrainedWorld undisturbed = train_world(o);
  o.after_update = [](compute::Engine& engine) {
    std::vector<bool> mine(engine.values().size());
    for (const compute::MomentPiece& piece : engine.moments()) {
      const compute::StageParameter& p = engine.parameters()[piece.parameter];
      for (std::int64_t i = piece.begin; i < piece.end; ++i)
        mine[static_cast<std::size_t>(p.offset + i)] = true;
    }
    for (const compute::StageParameter& p : engine.parameters())
      for (std::int64_t i = p.offset; i < p.offset + p.size; ++i)
        if (!mine[static_cast<std::size_t>(i)])
          engine.values()[static_cast<std::size_t>(i)] = std::numeric_limits<float>::quiet_NaN();
  };
  expect_same_bits(train_world(o), undisturbed);
}

}  // namespace
}  // namespace tenax::test
