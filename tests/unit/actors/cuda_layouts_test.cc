// Engines of many layouts on GPUs, emulated, against the CPU's and against each other: what ranks
// that share matrices exchange, through their hosts or from GPU to GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

#include "compute/nccl_peers.h"
#include "configs/model_card.h"
#include "tests/support/grid_model.h"
#include "tests/support/in_memory_rendezvous.h"
#include "tests/support/tiny_decoders.h"
#include "tests/support/traced_world.h"
#include "tests/unit/cuda/emulated_device.h"

namespace tenax::test {
namespace {

/// The emulation is slow: half the layers, a third of the microbatches.
WorldOptions small_world() {
  WorldOptions o = world_options();
  o.config.model.num_layers = 2;
  o.config.train.global_batch_size = 4;
  return o;
}

WorldOptions on_gpus(WorldOptions o) {
  o.change_options = [](compute::EngineOptions& options) {
    options.settings.cuda = compute::emulated_device(true);
  };
  return o;
}

TEST(CudaLayouts, ModelsInPartsStartAndTrainLikeThoseOfTheCpu) {
  for (const NamedModel& m : tiny_decoders()) {
    SCOPED_TRACE(m.name);
    WorldOptions o = small_world();
    m.change(o.config.model);
    o.steps = 0;
    const TrainedWorld start = train_world(o);
    o.steps = 1;
    const TrainedWorld on_cpu = train_world(o);
    for (const int tp : {1, 2, 4}) {
      SCOPED_TRACE(testing::Message() << "tp " << tp);
      o.config.layout.tensor_parallel = tp;
      o.steps = 0;
      expect_same_tensors(train_world(on_gpus(o)), start);
      o.steps = 1;
      expect_within_bound(on_cpu, train_world(on_gpus(o)),
                          rounding_bound(o.config, o.vocabulary_size));
    }
  }
}

TEST(CudaLayouts, EveryTinyCardTrainsLikeOnTheCpu) {
  int num_cards = 0;
  for (const std::string& name : configs::model_card_names()) {
    if (!name.ends_with("-tiny")) continue;
    SCOPED_TRACE(name);
    ++num_cards;
    const auto card = configs::load_model_card(name, {});
    ASSERT_TRUE(card) << card.error().message;
    WorldOptions o = small_world();
    configs::apply_model_card(*card, o.config.model);
    o.config.train.global_batch_size = 2;
    o.steps = 1;
    expect_within_bound(train_world(o), train_world(on_gpus(o)),
                        rounding_bound(o.config, o.vocabulary_size));
  }
  EXPECT_GE(num_cards, 9);
}

TEST(CudaLayouts, MasksAndDocumentsAreThoseOfTheCpu) {
  WorldOptions o = small_world();
  o.config.train.dropout = {.embedding = 0.1, .attention = 0.2, .residual = 0.3};
  o.document_length = 5;
  o.steps = 1;
  const TrainedWorld on_cpu = train_world(o);
  for (const int tp : {1, 2, 4}) {
    SCOPED_TRACE(testing::Message() << "tp " << tp);
    o.config.layout.tensor_parallel = tp;
    expect_within_bound(on_cpu, train_world(on_gpus(o)),
                        rounding_bound(o.config, o.vocabulary_size));
  }
}

TEST(CudaLayouts, ARankMayBeLeftWithoutTokens) {
  WorldOptions o = small_world();
  o.vocabulary_size = 11;
  o.config.model.padded_vocabulary_size = 17;  // 5 rows a rank: 5, 5, 1 and no tokens
  o.config.model.z_loss = 0.01;
  o.steps = 1;
  const TrainedWorld on_cpu = train_world(o);
  o.config.layout.tensor_parallel = 4;
  expect_within_bound(on_cpu, train_world(on_gpus(o)), rounding_bound(o.config, o.vocabulary_size));
}

TEST(CudaLayouts, RowsThatDoNotDivideAndRanksWithoutAnyTrainLikeOnTheCpu) {
  for (const NamedModel& m : tiny_decoders()) {
    WorldOptions o = small_world();
    m.change(o.config.model);
    o.config.train.dropout = {.embedding = 0.1, .attention = 0.2, .residual = 0.3};
    o.steps = 1;
    for (const int length : {3, 7}) {
      SCOPED_TRACE(testing::Message() << m.name << ", " << length << " tokens");
      o.config.train.sequence_length = length;
      o.config.layout = {};
      const TrainedWorld on_cpu = train_world(o);
      o.config.layout.tensor_parallel = 4;
      o.config.layout.pipeline_parallel = 2;
      o.config.train.recompute = compute::Recompute::kSelective;
      expect_within_bound(on_cpu, train_world(on_gpus(o)),
                          rounding_bound(o.config, o.vocabulary_size));
    }
  }
}

TEST(CudaLayouts, OtherDegreesDoNotChangeTheBits) {  // T2
  for (const auto precision : {compute::Precision::kFp32, compute::Precision::kBf16}) {
    WorldOptions o = small_world();
    o.config.train.precision = precision;
    o.config.train.dropout = {.embedding = 0.1, .attention = 0.2, .residual = 0.3};
    o.config.layout.tensor_parallel = 2;
    const TrainedWorld one_replica = train_world(on_gpus(o));
    o.config.layout.data_parallel = 3;
    o.config.layout.zero = 1;
    o.config.train.recompute = compute::Recompute::kSelective;
    expect_same_bits(train_world(on_gpus(o)), one_replica);
    // A boundary between stages is float32 on its way, which BF16 numbers pass through unchanged.
    o.config.layout.pipeline_parallel = 2;
    o.config.train.recompute = compute::Recompute::kFull;
    expect_same_bits(train_world(on_gpus(o)), one_replica);
  }
}

/// Ranks whose GPUs reach each other through NCCL, a stub of it.
class CudaPeers : public testing::Test {
 protected:
  CudaPeers() { setenv("TENAX_CUDA_LIBS", TENAX_STUB_LIBRARIES, 1); }
  ~CudaPeers() override { unsetenv("TENAX_CUDA_LIBS"); }

  WorldOptions connected(WorldOptions o) {
    o = on_gpus(std::move(o));
    ++num_worlds_;
    o.connect = [this](compute::Engine& engine) {
      const compute::EngineOptions& options = engine.options();
      const compute::NcclOptions nccl{options.rank, options.world_size, std::chrono::seconds(60),
                                      "world " + std::to_string(num_worlds_)};
      auto peers = compute::NcclPeers::create(options.settings.cuda, nccl, rendezvous_);
      ASSERT_TRUE(peers) << peers.error().message;
      auto neighbours = compute::NcclPeers::connect_neighbours(
          options.settings.cuda, nccl,
          {options.pp_group, options.stage, options.stages.size() > options.pp_group.size()},
          rendezvous_);
      ASSERT_TRUE(neighbours) << neighbours.error().message;
      EXPECT_EQ(neighbours->links.any(), options.pp_group.size() > 1);
      ASSERT_TRUE(engine.use(peers->get(), neighbours->links));
      const std::scoped_lock lock(mutex_);
      owners_.push_back(*std::move(peers));
      std::ranges::move(neighbours->owners, std::back_inserter(owners_));
    };
    return o;
  }

 private:
  InMemoryRendezvous rendezvous_;
  std::mutex mutex_;
  int num_worlds_ = 0;
  std::vector<std::unique_ptr<compute::DevicePeers>> owners_;
};

struct Degrees {
  int dp, tp, pp, chunks, zero;
};

WorldOptions in_layout(const Degrees& degrees) {
  WorldOptions o = small_world();
  o.config.model.num_layers = 4;
  o.config.layout.data_parallel = degrees.dp;
  o.config.layout.tensor_parallel = degrees.tp;
  o.config.layout.pipeline_parallel = degrees.pp;
  o.config.layout.virtual_stages = degrees.chunks;
  o.config.layout.zero = degrees.zero;
  return o;
}

TEST_F(CudaPeers, WhatGoesFromGpuToGpuHasTheBitsOfWhatGoesThroughTheHosts) {  // T2
  for (const Degrees& degrees :
       {Degrees{1, 4, 1, 1, 0}, Degrees{3, 1, 1, 1, 1}, Degrees{1, 1, 4, 1, 0},
        Degrees{1, 1, 2, 2, 0}, Degrees{2, 2, 2, 1, 0}}) {
    SCOPED_TRACE(testing::Message() << "dp " << degrees.dp << " tp " << degrees.tp << " pp "
                                    << degrees.pp << " chunks " << degrees.chunks);
    const WorldOptions o = in_layout(degrees);
    expect_same_bits(train_world(connected(o)), train_world(on_gpus(o)));
  }
}

TEST_F(CudaPeers, RowsOfRanksGoFromGpuToGpuAsTheyLie) {
  for (const auto precision : {compute::Precision::kFp32, compute::Precision::kBf16}) {
    for (const int length : {3, 7}) {  // tokens: one rank has none, or they do not divide
      SCOPED_TRACE(testing::Message() << length << " tokens");
      WorldOptions o = in_layout({1, 4, 2, 1, 0});
      o.config.train.precision = precision;
      o.config.train.sequence_length = length;
      expect_same_bits(train_world(connected(o)), train_world(on_gpus(o)));
    }
  }
}

TEST_F(CudaPeers, TheFirstBucketIsOnItsWayBeforeTheLastBackwardEnds) {
  for (const auto overlap : {compute::Overlap::kOn, compute::Overlap::kOff}) {
    for (const auto& events : traces_of(connected(in_layout({2, 1, 1, 1, 0})), overlap)) {
      const ReductionTimes times(events);
      EXPECT_GE(times.num_reductions, 5u) << "a bucket a layer, and embedding or head";
      EXPECT_EQ(times.first_reduction < times.last_backward, overlap == compute::Overlap::kOn);
    }
  }
}

}  // namespace
}  // namespace tenax::test
