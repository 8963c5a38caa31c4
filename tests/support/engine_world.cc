#include "tests/support/engine_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "actors/engine_setup.h"
#include "checkpoint/box.h"
#include "common/counter_rng.h"
#include "tests/support/thread_world.h"

namespace tenax::test {

namespace {

using checkpoint::TensorShard;

/// Tokens and targets of one microbatch, a function of its number; one target in five is masked.
struct Batch {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> targets;
  std::vector<std::int64_t> samples;
  std::vector<std::int32_t> positions;  ///< in its document; empty: one a sample

  Batch(const compute::EngineOptions& o, int document_length, std::uint64_t number) {
    const CounterRng rng(number, 0);
    const auto size = static_cast<std::uint64_t>(o.shape.microbatch_size) *
                      static_cast<std::uint64_t>(o.shape.sequence_length);
    const auto vocabulary = static_cast<std::uint64_t>(o.model.vocabulary_size);
    for (std::uint64_t i = 0; i < size; ++i) {
      tokens.push_back(static_cast<std::int32_t>(rng.bits(2 * i) % vocabulary));
      const std::uint64_t target = rng.bits(2 * i + 1);
      targets.push_back(target % 5 == 0 ? -1
                                        : static_cast<std::int32_t>((target >> 8) % vocabulary));
    }
    const auto batch = static_cast<std::uint64_t>(o.shape.microbatch_size);
    for (std::uint64_t b = 0; b < batch; ++b)
      samples.push_back(static_cast<std::int64_t>(number * batch + b));
    for (std::uint64_t i = 0; i < size && document_length > 0; ++i)
      positions.push_back(static_cast<std::int32_t>(i) % o.shape.sequence_length % document_length);
  }
};

std::vector<Batch> make_batches(const compute::EngineOptions& o, int document_length, int first,
                                int end, std::uint64_t step) {
  std::vector<Batch> batches;
  for (int mb = first; mb < end; ++mb)
    batches.emplace_back(o, document_length, 1000 * step + static_cast<std::uint64_t>(mb));
  return batches;
}

std::vector<compute::Microbatch> views(const std::vector<Batch>& batches) {
  std::vector<compute::Microbatch> out;
  for (const Batch& b : batches) {
    compute::Microbatch microbatch;
    microbatch.tokens = b.tokens;
    microbatch.targets = b.targets;
    microbatch.samples = b.samples;
    microbatch.positions = b.positions;
    out.push_back(microbatch);
  }
  return out;
}

/// What one rank has at the end.
struct RankResult {
  std::vector<double> losses;
  std::vector<double> norms;
  double eval_loss = 0;
  actors::EnginePayload payload;
  std::vector<std::byte> bytes;
};

void train_rank(const WorldOptions& options, compute::Communicator& comm, RankResult& out) {
  const Degrees degrees = actors::degrees_of(options.config);
  compute::EngineOptions engine_options =
      actors::engine_options(options.config, options.vocabulary_size, degrees, comm.rank());
  engine_options.bucket_bytes = 0;
  if (options.change_options) options.change_options(engine_options);
  auto created = compute::Engine::create(std::move(engine_options));
  ASSERT_TRUE(created) << created.error().message;
  compute::Engine& engine = **created;
  if (options.connect) options.connect(engine);
  engine.initialise(static_cast<std::uint64_t>(options.config.run.seed));
  const compute::EngineOptions& o = engine.options();
  const compute::MicrobatchRange mine = o.ranges[static_cast<std::size_t>(o.replica)];
  for (int step = 1; step <= options.steps; ++step) {
    const auto batches = make_batches(o, options.document_length, mine.begin, mine.end,
                                      static_cast<std::uint64_t>(step));
    const Status computed = engine.compute_gradients(comm, views(batches));
    ASSERT_TRUE(computed) << computed.error().message;
    compute::VerdictPart part = engine.verdict_part();
    part.step = step;
    const auto verdict = engine.exchange_verdict(comm, part);
    ASSERT_TRUE(verdict) << verdict.error().message;
    EXPECT_TRUE(verdict->finite);
    engine.apply_update({verdict->grad_norm, 1.0, verdict->targets, 1e-2, step});
    if (options.after_update) options.after_update(engine);
    const Status shared = engine.share_weights(comm);
    ASSERT_TRUE(shared) << shared.error().message;
    out.losses.push_back(verdict->loss);
    out.norms.push_back(verdict->grad_norm);
  }
  constexpr int kHeldOut = 5;
  const auto heldout = make_batches(o, options.document_length, 0, kHeldOut, 0);
  const auto share = actors::heldout_share(o, kHeldOut);
  const auto loss =
      engine.evaluate(comm, views({heldout.begin() + share.begin, heldout.begin() + share.end}),
                      actors::forward_schedule(o, kHeldOut), kHeldOut);
  ASSERT_TRUE(loss) << loss.error().message;
  out.eval_loss = *loss;
  out.payload = actors::payload_of(engine);
  out.bytes.resize(out.payload.bytes);
  const Status copied = actors::copy_to_payload(engine, out.bytes);
  ASSERT_TRUE(copied) << copied.error().message;
}

void copy_box(const TensorShard& shard, const float* values, std::vector<float>& tensor) {
  const Box all = checkpoint::whole(shard.global_shape);
  for (const checkpoint::Run& run : checkpoint::copy_runs(shard.box, all, shard.box))
    std::memcpy(tensor.data() + run.target, values + run.source,
                static_cast<std::size_t>(run.count) * sizeof(float));
}

const float* values_of(const RankResult& rank, const TensorShard& shard) {
  return reinterpret_cast<const float*>(rank.bytes.data() + shard.offset);
}

void put_together(const std::vector<RankResult>& ranks, TrainedWorld& world) {
  std::map<std::pair<std::string, std::string>, std::vector<float>> times;
  for (const RankResult& rank : ranks) {
    for (const std::uint32_t i : rank.payload.writes) {
      const TensorShard& shard = rank.payload.table[i];
      const auto size =
          static_cast<std::size_t>(checkpoint::volume(checkpoint::whole(shard.global_shape)));
      std::vector<float>& tensor = world.tensors[{shard.kind, shard.name}];
      tensor.resize(size);
      copy_box(shard, values_of(rank, shard), tensor);
      std::vector<float>& count = times[{shard.kind, shard.name}];
      count.resize(size);
      const std::vector<float> ones(static_cast<std::size_t>(checkpoint::volume(shard.box)), 1.0f);
      std::vector<float> here(size);
      copy_box(shard, ones.data(), here);
      for (std::size_t e = 0; e < size; ++e) count[e] += here[e];
    }
  }
  for (const auto& [key, count] : times) {
    for (const float n : count)
      ASSERT_EQ(n, 1.0f) << key.first << " " << key.second << " is not written exactly once";
  }
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    for (const TensorShard& shard : ranks[r].payload.table) {
      const auto at = world.tensors.find({shard.kind, shard.name});
      ASSERT_NE(at, world.tensors.end()) << shard.kind << " " << shard.name << " is not written";
      std::vector<float> tensor = at->second;
      copy_box(shard, values_of(ranks[r], shard), tensor);
      EXPECT_EQ(std::memcmp(tensor.data(), at->second.data(), tensor.size() * sizeof(float)), 0)
          << "rank " << r << " holds other bits of " << shard.kind << " " << shard.name;
    }
  }
}

}  // namespace

TrainedWorld train_world(const WorldOptions& options) {
  const int world_size = actors::degrees_of(options.config).world_size();
  std::vector<RankResult> ranks(static_cast<std::size_t>(world_size));
  run_world(world_size, [&](compute::Communicator& comm) {
    train_rank(options, comm, ranks[static_cast<std::size_t>(comm.rank())]);
  });
  TrainedWorld world;
  world.losses = ranks.front().losses;
  world.norms = ranks.front().norms;
  world.eval_loss = ranks.front().eval_loss;
  for (const RankResult& rank : ranks) {
    EXPECT_EQ(rank.losses, world.losses);
    EXPECT_EQ(rank.norms, world.norms);
    EXPECT_EQ(rank.eval_loss, world.eval_loss);
  }
  if (!::testing::Test::HasFatalFailure()) put_together(ranks, world);
  return world;
}

void expect_same_bits(const TrainedWorld& a, const TrainedWorld& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.eval_loss, b.eval_loss);
  expect_same_tensors(a, b);
}

void expect_same_tensors(const TrainedWorld& a, const TrainedWorld& b) {
  EXPECT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [key, tensor] : a.tensors) {
    const auto at = b.tensors.find(key);
    ASSERT_NE(at, b.tensors.end()) << key.first << " " << key.second;
    ASSERT_EQ(at->second.size(), tensor.size()) << key.first << " " << key.second;
    EXPECT_EQ(std::memcmp(at->second.data(), tensor.data(), tensor.size() * sizeof(float)), 0)
        << key.first << " " << key.second;
  }
}

namespace {

double norm_of(const std::vector<float>& tensor) {
  double sum = 0;
  for (const float x : tensor) sum += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(sum);
}

std::vector<float> difference(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = a[i] - b[i];
  return out;
}

}  // namespace

void expect_within_bound(const TrainedWorld& a, const TrainedWorld& b, double bound) {
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (std::size_t i = 0; i < a.losses.size(); ++i) {
    EXPECT_NEAR(a.losses[i], b.losses[i], bound * a.losses[i]);
    EXPECT_NEAR(a.norms[i], b.norms[i], bound * a.norms[i]);
  }
  double all = 0;
  for (const auto& [key, tensor] : a.tensors)
    if (key.first == checkpoint::kAdamM) all = std::hypot(all, norm_of(tensor));
  for (const auto& [key, tensor] : a.tensors) {
    if (key.first != checkpoint::kAdamM) continue;
    const auto at = b.tensors.find(key);
    ASSERT_NE(at, b.tensors.end()) << key.second;
    ASSERT_EQ(at->second.size(), tensor.size()) << key.second;
    EXPECT_LE(norm_of(difference(tensor, at->second)),
              bound * std::max(norm_of(tensor), 1e-3 * all))
        << key.second;
  }
}

}  // namespace tenax::test
