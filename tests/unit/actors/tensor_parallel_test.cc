// Tensor-parallel engines against one process, for each way of building a decoder.
#include <gtest/gtest.h>

#include "tests/support/grid_model.h"
#include "tests/support/tiny_decoders.h"

namespace tenax::test {
namespace {

TEST(TensorParallel, RanksStartWithTheBitsOfOneProcess) {
  for (const NamedModel& m : tiny_decoders()) {
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

TEST(TensorParallel, GradientsAreThoseOfOneProcessWithinTheBound) {
  for (const NamedModel& m : tiny_decoders()) {
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

TEST(TensorParallel, DropoutMasksAreThoseOfOneProcess) {
  WorldOptions o = world_options();
  o.config.train.dropout = {.embedding = 0.1, .attention = 0.2, .residual = 0.3};
  o.steps = 1;
  const TrainedWorld alone = train_world(o);
  o.config.train.dropout.residual = 0;
  EXPECT_NE(train_world(o).losses, alone.losses) << "the masks must matter for this test";
  o.config.train.dropout.residual = 0.3;
  for (const int tp : {2, 4}) {
    SCOPED_TRACE(testing::Message() << "tp " << tp);
    o.config.layout.tensor_parallel = tp;
    expect_within_bound(alone, train_world(o), rounding_bound(o.config, o.vocabulary_size));
  }
}

TEST(TensorParallel, SequencesOfSeveralDocumentsAreThoseOfOneProcess) {
  WorldOptions o = world_options();
  o.steps = 1;
  o.document_length = 5;
  for (const auto positions : {compute::PositionKind::kRope, compute::PositionKind::kAlibi}) {
    o.config.model.positions = positions;
    o.config.layout.tensor_parallel = 1;
    const TrainedWorld alone = train_world(o);
    o.config.layout.tensor_parallel = 2;
    expect_within_bound(alone, train_world(o), rounding_bound(o.config, o.vocabulary_size));
  }
}

TEST(TensorParallel, AVocabularyOfFewerTokensThanRowsMayLeaveARankWithoutAny) {
  WorldOptions o = world_options();
  o.vocabulary_size = 11;
  o.config.model.padded_vocabulary_size = 17;  // 5 rows a rank: 5, 5, 1 and no tokens
  o.steps = 1;
  const TrainedWorld alone = train_world(o);
  o.config.layout.tensor_parallel = 4;
  expect_within_bound(alone, train_world(o), rounding_bound(o.config, o.vocabulary_size));
}

TEST(TensorParallel, EightRanksOfWhichFourShareEachKeyHeadAreWithinTheBound) {
  WorldOptions o = world_options();
  o.config.model.num_heads = 8;
  o.steps = 1;
  const TrainedWorld alone = train_world(o);
  o.config.layout.tensor_parallel = 8;
  expect_within_bound(alone, train_world(o), rounding_bound(o.config, o.vocabulary_size));
}

TEST(TensorParallel, RowsThatDoNotDivideAndRanksWithoutAnyAreWithinTheBound) {
  for (const NamedModel& m : tiny_decoders()) {
    WorldOptions o = world_options();
    m.change(o.config.model);
    o.config.model.num_layers = 2;
    o.config.train.global_batch_size = 3;
    o.config.train.dropout = {.embedding = 0.1, .attention = 0.2, .residual = 0.3};
    o.steps = 1;
    for (const int length : {1, 3, 7}) {
      SCOPED_TRACE(testing::Message() << m.name << ", " << length << " tokens");
      o.config.train.sequence_length = length;
      o.config.layout = {};
      const TrainedWorld alone = train_world(o);
      o.config.layout.tensor_parallel = 4;
      const TrainedWorld in_parts = train_world(o);
      expect_within_bound(alone, in_parts, rounding_bound(o.config, o.vocabulary_size));
      o.config.layout.pipeline_parallel = 2;
      expect_same_bits(train_world(o), in_parts);
    }
  }
}

TEST(TensorParallel, RecomputationGivesTheSameBits) {
  for (const NamedModel& m : tiny_decoders()) {
    SCOPED_TRACE(m.name);
    WorldOptions o = world_options();
    m.change(o.config.model);
    o.config.model.num_layers = 2;
    o.config.train.global_batch_size = 3;
    o.config.train.sequence_length = 11;
    o.config.train.dropout.residual = 0.3;
    o.document_length = 5;
    o.config.layout.tensor_parallel = 4;
    const TrainedWorld kept = train_world(o);
    for (const auto recompute : {compute::Recompute::kSelective, compute::Recompute::kFull}) {
      o.config.train.recompute = recompute;
      expect_same_bits(train_world(o), kept);
    }
  }
}

TEST(TensorParallel, OtherDegreesDoNotChangeTheBits) {
  for (const NamedModel& m : tiny_decoders()) {
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
