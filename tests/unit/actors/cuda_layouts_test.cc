// Engines of many layouts on GPUs, emulated, against the CPU's and against each other: what ranks
// that share matrices exchange, through their hosts or from GPU to GPU.
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "compute/nccl_peers.h"
#include "tests/support/grid_model.h"
#include "tests/support/in_memory_rendezvous.h"
#include "tests/support/tiny_decoders.h"
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

TEST(CudaLayouts, SumsFromGpuToGpuHaveTheBitsOfThoseThroughTheHosts) {  // T2
  WorldOptions o = small_world();
  o.config.layout.tensor_parallel = 4;
  const TrainedWorld through_hosts = train_world(on_gpus(o));
  setenv("TENAX_CUDA_LIBS", TENAX_STUB_LIBRARIES, 1);
  o = on_gpus(o);
  InMemoryRendezvous rendezvous;
  std::mutex mutex;
  std::vector<std::unique_ptr<compute::DevicePeers>> peers;
  o.use_peers = [&](compute::Engine& engine) {
    const compute::EngineOptions& options = engine.options();
    auto formed = compute::NcclPeers::create(
        options.settings.cuda,
        {options.rank, options.world_size, std::chrono::seconds(60), "engines"}, rendezvous);
    ASSERT_TRUE(formed) << formed.error().message;
    engine.use(formed->get());
    const std::scoped_lock lock(mutex);
    peers.push_back(*std::move(formed));
  };
  expect_same_bits(train_world(o), through_hosts);
  EXPECT_EQ(peers.size(), 4U);
  unsetenv("TENAX_CUDA_LIBS");
}

}  // namespace
}  // namespace tenax::test
