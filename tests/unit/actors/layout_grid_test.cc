// Engines of every layout against one process: the same bits, or a derived bound
// (docs/numerics.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

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

TEST(LayoutGrid, InterleavedStagesGiveTheBitsOfOneProcess) {
  for (const bool tied : {true, false}) {
    WorldOptions o = world_options();
    o.config.model.tied_output = tied;
    o.config.model.num_layers = 6;
    const TrainedWorld alone = train_world(o);
    o.config.layout.pipeline_parallel = 2;
    for (const int chunks : {2, 3}) {
      for (const int dp : {1, 4}) {  // 12 microbatches, and 3: no multiple of the stages
        SCOPED_TRACE(testing::Message() << "chunks " << chunks << " dp " << dp);
        o.config.layout.virtual_stages = chunks;
        o.config.layout.data_parallel = dp;
        o.config.layout.zero = dp > 1 ? 1 : 0;
        expect_same_bits(train_world(o), alone);
      }
    }
  }
}

/// c * eps * sqrt(K): sixteen dependent sums a layer, forward and backward, embedding and head
/// included; K is the longest of them.
double rounding_bound(const configs::RunConfig& c, std::int64_t vocabulary) {
  const auto longest = static_cast<double>(
      std::max({vocabulary, 4 * c.model.width, c.train.sequence_length * c.train.microbatch_size}));
  const double sums = 16.0 * static_cast<double>(c.model.num_layers + 1);
  return sums * 0x1p-24 * std::sqrt(longest);
}

struct NamedModel {
  std::string name;
  std::function<void(compute::ModelOptions&)> change;
};

std::vector<NamedModel> models() {
  using namespace compute;
  return {
      {"gpt2", [](ModelOptions&) {}},
      {"llama with fewer key heads than ranks",
       [](ModelOptions& o) {
         o.norm = NormKind::kRmsNorm;
         o.positions = PositionKind::kRope;
         o.activation = ActivationKind::kSwiglu;
         o.biases = false;
         o.tied_output = false;
         o.qk_norm = true;
       }},
      {"bloom",
       [](ModelOptions& o) {
         o.positions = PositionKind::kAlibi;
         o.embedding_norm = true;
         o.num_kv_heads = 0;
       }},
      {"palm",
       [](ModelOptions& o) {
         o.num_kv_heads = 1;
         o.parallel_block = true;
         o.activation = ActivationKind::kSwiglu;
         o.z_loss = 0.01;
         o.logit_scale = 0.5;
       }},
      {"post norm", [](ModelOptions& o) { o.norm_placement = NormPlacement::kPost; }},
  };
}

TEST(LayoutGrid, TensorParallelRanksStartWithTheBitsOfOneProcess) {
  for (const NamedModel& m : models()) {
    SCOPED_TRACE(m.name);
    WorldOptions o = world_options();
    m.change(o.config.model);
    o.steps = 0;
    const TrainedWorld alone = train_world(o);
    for (const int tp : {2, 4}) {
      o.config.layout.tensor_parallel = tp;
      expect_same_tensors(train_world(o), alone);
    }
  }
}

TEST(LayoutGrid, TensorParallelGradientsAreThoseOfOneProcessWithinTheBound) {
  for (const NamedModel& m : models()) {
    SCOPED_TRACE(m.name);
    WorldOptions o = world_options();
    m.change(o.config.model);
    o.steps = 1;
    const TrainedWorld alone = train_world(o);
    for (const int tp : {2, 4}) {
      SCOPED_TRACE(testing::Message() << "tp " << tp);
      o.config.layout.tensor_parallel = tp;
      expect_within_bound(alone, train_world(o), rounding_bound(o.config, o.vocabulary_size));
    }
  }
}

TEST(LayoutGrid, AVocabularyOfFewerTokensThanRowsMayLeaveARankWithoutAny) {
  WorldOptions o = world_options();
  o.vocabulary_size = 11;
  o.config.model.padded_vocabulary_size = 17;  // 5 rows a rank: 5, 5, 1 and no tokens
  o.steps = 1;
  const TrainedWorld alone = train_world(o);
  o.config.layout.tensor_parallel = 4;
  expect_within_bound(alone, train_world(o), rounding_bound(o.config, o.vocabulary_size));
}

TEST(LayoutGrid, OtherDegreesDoNotChangeTheBitsOfATensorParallelRun) {
  for (const NamedModel& m : models()) {
    SCOPED_TRACE(m.name);
    WorldOptions o = world_options();
    m.change(o.config.model);
    o.config.layout.tensor_parallel = 2;
    const TrainedWorld one_replica = train_world(o);
    expect_same_bits(train_world(o), one_replica);  // it repeats itself
    o.config.layout.data_parallel = 3;
    o.config.layout.zero = 1;
    expect_same_bits(train_world(o), one_replica);
    o.config.layout.pipeline_parallel = 2;
    o.config.layout.virtual_stages = 2;
    expect_same_bits(train_world(o), one_replica);
  }
}

}  // namespace
}  // namespace tenax::test
