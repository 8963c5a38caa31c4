// The training engine over in-process worlds: the same microbatches give the same bits on every
// layout (T2).
#include "compute/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "tests/support/even_layout.h"
#include "tests/support/thread_world.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

constexpr int kMicrobatches = 6;
constexpr BatchShape kShape{2, 7};

ModelOptions model(bool tied) {
  ModelOptions o = tied ? tiny_gpt2() : tiny_llama();
  o.num_layers = 3;
  return o;
}

/// 1F1B by hand: this test stays below scheduler/.
PipelineSchedule schedule(int stage, int num_stages, int m) {
  PipelineSchedule s;
  const int warmup = std::min(num_stages - 1 - stage, m);
  const int slots = num_stages - stage;
  const auto forward = [&](int i) {
    if (stage > 0) s.push_back({ActionKind::kRecvForward, i, i % slots});
    s.push_back({ActionKind::kForward, i, i % slots});
    if (stage + 1 < num_stages) s.push_back({ActionKind::kSendForward, i, i % slots});
  };
  const auto backward = [&](int i) {
    if (stage + 1 < num_stages) s.push_back({ActionKind::kRecvBackward, i, i % slots});
    s.push_back({ActionKind::kBackward, i, i % slots});
    if (stage > 0) s.push_back({ActionKind::kSendBackward, i, i % slots});
  };
  for (int i = 0; i < warmup; ++i) forward(i);
  for (int i = warmup; i < m; ++i) {
    forward(i);
    backward(i - warmup);
  }
  for (int i = m - warmup; i < m; ++i) backward(i);
  return s;
}

EngineOptions engine_options(const ModelOptions& model, int dp, int pp, int rank) {
  EngineOptions o;
  o.shape = kShape;
  test::lay_out(o, model, {dp, pp}, rank, kMicrobatches);
  o.schedule = schedule(o.stage, pp, o.ranges[static_cast<std::size_t>(o.replica)].size());
  return o;
}

struct Outcome {
  std::vector<double> losses;
  std::vector<double> norms;
  std::map<std::string, std::vector<float>> tensors;  ///< weights, m and v by name
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void train_step(Engine& engine, Communicator& comm, std::int64_t step, Outcome* out) {
  const EngineOptions& o = engine.options();
  const MicrobatchRange mine = o.ranges[static_cast<std::size_t>(o.replica)];
  std::vector<TestBatch> batches;
  for (int mb = mine.begin; mb < mine.end; ++mb)
    batches.emplace_back(o.model, kShape, static_cast<std::uint64_t>(100 * step + mb));
  std::vector<Microbatch> microbatches;
  for (const TestBatch& b : batches) microbatches.push_back({b.tokens, b.targets, false});
  const Status computed = engine.compute_gradients(comm, microbatches);
  ASSERT_TRUE(computed) << computed.error().message;
  VerdictPart part = engine.verdict_part();
  part.step = step;
  part.newest_command = o.rank;
  part.slot_free = o.rank != 1;
  const auto verdict = engine.exchange_verdict(comm, part);
  ASSERT_TRUE(verdict) << verdict.error().message;
  EXPECT_EQ(verdict->command, 0) << "the least of all ranks";
  EXPECT_EQ(verdict->slots_free, o.world_size == 1);
  EXPECT_TRUE(verdict->finite);
  engine.apply_update({verdict->grad_norm, 0.5, verdict->targets, 1e-2, step});
  if (out == nullptr) return;
  out->losses.push_back(verdict->loss);
  out->norms.push_back(verdict->grad_norm);
}

void collect(Engine& engine, Outcome& out) {
  for (const StageParameter& p : engine.parameters()) {
    const auto add = [&](const std::string& kind, std::span<float> all) {
      const auto values =
          all.subspan(static_cast<std::size_t>(p.offset), static_cast<std::size_t>(p.size));
      const std::vector<float> tensor(values.begin(), values.end());
      const auto [it, fresh] = out.tensors.emplace(kind + p.spec.name, tensor);
      // Replicas, and the two copies of a tied embedding.
      if (!fresh) {
        EXPECT_TRUE(same_bits(it->second, tensor)) << kind << p.spec.name;
      }
    };
    add("w ", engine.values());
    add("m ", engine.adam_m());
    add("v ", engine.adam_v());
  }
}

Outcome train(const ModelOptions& model, int dp, int pp) {
  Outcome out;
  std::mutex mutex;
  test::run_world(dp * pp, [&](Communicator& comm) {
    auto engine = Engine::create(engine_options(model, dp, pp, comm.rank()));
    ASSERT_TRUE(engine) << engine.error().message;
    (*engine)->initialise(11);
    for (std::int64_t step = 1; step <= 3; ++step)
      train_step(**engine, comm, step, comm.rank() == 0 ? &out : nullptr);
    const std::scoped_lock lock(mutex);
    collect(**engine, out);
  });
  return out;
}

TEST(Engine, EveryLayoutGivesTheSameBits) {  // T2
  for (const bool tied : {true, false}) {
    const Outcome alone = train(model(tied), 1, 1);
    ASSERT_EQ(alone.losses.size(), 3u);
    EXPECT_NE(alone.losses[0], alone.losses[2]);
    for (int pp = 1; pp <= 2; ++pp) {
      for (int dp = 1; dp <= 3; ++dp) {
        if (dp * pp == 1) continue;
        SCOPED_TRACE(testing::Message() << "dp " << dp << " pp " << pp << " tied " << tied);
        const Outcome split = train(model(tied), dp, pp);
        EXPECT_EQ(split.losses, alone.losses);
        EXPECT_EQ(split.norms, alone.norms);
        ASSERT_EQ(split.tensors.size(), alone.tensors.size());
        for (const auto& [name, tensor] : alone.tensors)
          EXPECT_TRUE(same_bits(split.tensors.at(name), tensor)) << name;
      }
    }
  }
}

/// As train(), but the second step has fewer microbatches and the third all again.
Outcome train_with_a_ramp(const ModelOptions& model, int dp, int pp) {
  Outcome out;
  std::mutex mutex;
  test::run_world(dp * pp, [&](Communicator& comm) {
    auto engine = Engine::create(engine_options(model, dp, pp, comm.rank()));
    ASSERT_TRUE(engine) << engine.error().message;
    (*engine)->initialise(11);
    const EngineOptions all = (*engine)->options();
    for (const auto& [step, count] : {std::pair{1, kMicrobatches}, {2, 3}, {3, kMicrobatches}}) {
      Engine::Batch batch{{}, count, {}};
      for (int r = 0; r < dp; ++r) batch.ranges.push_back({count * r / dp, count * (r + 1) / dp});
      batch.schedule =
          schedule(all.stage, pp, batch.ranges[static_cast<std::size_t>(all.replica)].size());
      ASSERT_TRUE((*engine)->set_batch(batch));
      train_step(**engine, comm, step, comm.rank() == 0 ? &out : nullptr);
    }
    const std::scoped_lock lock(mutex);
    collect(**engine, out);
  });
  return out;
}

TEST(Engine, StepsOfAnotherBatchSizeGiveTheSameBitsOnEveryLayout) {
  const ModelOptions m = model(true);
  const Outcome alone = train_with_a_ramp(m, 1, 1);
  EXPECT_NE(alone.losses, train(m, 1, 1).losses);
  for (const auto& [dp, pp] : {std::pair{2, 1}, {1, 2}, {2, 2}, {4, 1}}) {
    SCOPED_TRACE(testing::Message() << "dp " << dp << " pp " << pp);
    const Outcome split = train_with_a_ramp(m, dp, pp);
    EXPECT_EQ(split.losses, alone.losses);
    EXPECT_EQ(split.norms, alone.norms);
    for (const auto& [name, tensor] : alone.tensors)
      EXPECT_TRUE(same_bits(split.tensors.at(name), tensor)) << name;
  }
}

/// Microbatch `mb` of a step in which microbatches have no, one or all of their targets, and
/// samples of several documents.
TestBatch masked_batch(const ModelOptions& options, int mb) {
  TestBatch batch(options, kShape, static_cast<std::uint64_t>(mb));
  batch.positions = {0, 1, 2, 0, 1, 0, 1, 0, 0, 1, 2, 3, 4, 5};
  std::ranges::fill(batch.targets, 5);
  if (mb % 3 == 0) std::ranges::fill(batch.targets, -1);
  if (mb % 3 == 1) {
    std::ranges::fill(batch.targets, -1);
    batch.targets[9] = 2;
  }
  return batch;
}

TEST(Engine, TargetsAreCountedOverTheWholeBatchHoweverTheyLie) {
  const ModelOptions m = model(true);
  const auto stage = make_stage(m, whole_model(m), kShape);
  stage->initialise(11);
  double sum = 0;
  std::int64_t targets = 0;
  std::vector<double> gradient(stage->gradient_size());
  for (int mb = 0; mb < kMicrobatches; ++mb) {
    const Trained trained = train_once(*stage, masked_batch(m, mb));
    sum += trained.loss.sum;
    targets += trained.loss.targets;
    for (std::size_t i = 0; i < gradient.size(); ++i)
      gradient[i] += static_cast<double>(trained.gradient[i]);
  }
  double squares = 0;
  for (const StageParameter& p : stage->parameters())
    for (std::size_t i = 0; i < static_cast<std::size_t>(p.size); ++i) {
      double g = 0;
      for (const GradientPart& part : p.gradients)
        g += gradient[static_cast<std::size_t>(part.offset) + i];
      squares += g * g;
    }
  ASSERT_EQ(targets, 2 * (1 + 14));

  std::map<std::string, std::vector<float>> expected;
  for (const auto& [dp, pp] : {std::pair{1, 1}, {4, 1}, {1, 2}, {5, 1}}) {
    SCOPED_TRACE(testing::Message() << "dp " << dp << " pp " << pp);
    Outcome out;
    std::mutex mutex;
    test::run_world(dp * pp, [&, dp = dp, pp = pp](Communicator& comm) {
      auto engine = Engine::create(engine_options(m, dp, pp, comm.rank()));
      ASSERT_TRUE(engine) << engine.error().message;
      (*engine)->initialise(11);
      const EngineOptions& o = (*engine)->options();
      const MicrobatchRange mine = o.ranges[static_cast<std::size_t>(o.replica)];
      std::vector<TestBatch> batches;
      for (int mb = mine.begin; mb < mine.end; ++mb) batches.push_back(masked_batch(m, mb));
      std::vector<Microbatch> microbatches;
      for (const TestBatch& b : batches)
        microbatches.push_back({b.tokens, b.targets, false, 0, b.positions});
      ASSERT_TRUE((*engine)->compute_gradients(comm, microbatches));
      const auto verdict = (*engine)->exchange_verdict(comm, (*engine)->verdict_part());
      ASSERT_TRUE(verdict);
      EXPECT_EQ(verdict->targets, targets);
      EXPECT_DOUBLE_EQ(verdict->loss, sum / static_cast<double>(targets));
      // The gradient's sums are in fp32: a dozen roundings of 6e-8.
      const double norm = std::sqrt(squares) / static_cast<double>(targets);
      EXPECT_NEAR(verdict->grad_norm, norm, 1e-6 * norm);
      (*engine)->apply_update({verdict->grad_norm, 0.5, verdict->targets, 1e-2, 1});
      const std::scoped_lock lock(mutex);
      collect(**engine, out);
    });
    if (expected.empty()) expected = out.tensors;
    for (const auto& [name, tensor] : expected)
      EXPECT_TRUE(same_bits(out.tensors.at(name), tensor)) << name;
  }
}

// A held step: both computations must be the same bits, and a rank that differs is named.
TEST(Engine, AFlippedGradientBitIsSeenByItsRankAloneAndByTheVerdict) {
  const ModelOptions m = model(true);
  test::run_world(2, [&](Communicator& comm) {
    auto engine = Engine::create(engine_options(m, 2, 1, comm.rank()));
    ASSERT_TRUE(engine);
    (*engine)->initialise(11);
    const MicrobatchRange mine = (*engine)->options().ranges[static_cast<std::size_t>(comm.rank())];
    std::vector<TestBatch> batches;
    for (int mb = mine.begin; mb < mine.end; ++mb)
      batches.emplace_back(m, kShape, static_cast<std::uint64_t>(mb));
    std::vector<Microbatch> microbatches;
    for (const TestBatch& b : batches) microbatches.push_back({b.tokens, b.targets, false});
    const auto compute = [&](std::uint32_t bits, const Hash128* first) {
      microbatches.front().set_gradient_bits = comm.rank() == 1 ? bits : 0;
      EXPECT_TRUE((*engine)->compute_gradients(comm, microbatches));
      VerdictPart part = (*engine)->verdict_part();
      part.step = 1;
      part.differs = first != nullptr && (*engine)->own_gradient_hash().value() != *first;
      return *(*engine)->exchange_verdict(comm, part);
    };
    const Verdict wrong = compute(1U << 30, nullptr);
    const Hash128 wrong_hash = (*engine)->own_gradient_hash().value();
    const Verdict right = compute(0, &wrong_hash);
    const Hash128 right_hash = (*engine)->own_gradient_hash().value();
    EXPECT_EQ(right_hash == wrong_hash, comm.rank() == 0);
    EXPECT_EQ(right.num_differing, 1);
    EXPECT_EQ(right.differing_rank, 1);
    EXPECT_EQ(right.loss, wrong.loss);
    EXPECT_GT(wrong.grad_norm, 1e6 * right.grad_norm);
    const Verdict again = compute(0, &right_hash);
    EXPECT_EQ(again.num_differing, 0);
    EXPECT_EQ(again.grad_norm, right.grad_norm);
    // Each replica's mean, and its samples' sums.
    ASSERT_EQ(again.replica_losses.size(), 2u);
    const VerdictPart part = (*engine)->verdict_part();
    double loss = 0;
    std::int64_t targets = 0;
    for (std::size_t i = 0; i < part.loss_sums.size(); ++i) {
      loss += part.loss_sums[i];
      targets += part.target_counts[i];
    }
    EXPECT_EQ(again.replica_losses[static_cast<std::size_t>(comm.rank())],
              loss / static_cast<double>(targets));
    double sum = 0;
    for (const double sample : (*engine)->sample_losses()) sum += sample;
    EXPECT_NEAR(sum, loss, 1e-9 * loss);
  });
}

TEST(Engine, AReplacedReplicaFedByItsPeerGoesOnAsIfNothingHadHappened) {
  const ModelOptions m = model(true);
  const Outcome undisturbed = train(m, 2, 1);
  Outcome out;
  std::mutex mutex;
  test::run_world(2, [&](Communicator& comm) {
    auto engine = Engine::create(engine_options(m, 2, 1, comm.rank()));
    ASSERT_TRUE(engine);
    (*engine)->initialise(11);
    train_step(**engine, comm, 1, nullptr);
    train_step(**engine, comm, 2, nullptr);
    if (comm.rank() == 0) {
      ASSERT_TRUE((*engine)->send_state(comm, 1));
    } else {
      engine = Engine::create(engine_options(m, 2, 1, 1));
      ASSERT_TRUE(engine);
      (*engine)->initialise(99);
      ASSERT_TRUE((*engine)->recv_state(comm, 0));
    }
    train_step(**engine, comm, 3, nullptr);
    const std::scoped_lock lock(mutex);
    collect(**engine, out);
  });
  for (const auto& [name, tensor] : undisturbed.tensors)
    EXPECT_TRUE(same_bits(out.tensors.at(name), tensor)) << name;
}

TEST(Engine, PoisonOfOneMicrobatchIsKnownToEveryRank) {  // S1
  test::run_world(4, [&](Communicator& comm) {
    auto engine = Engine::create(engine_options(model(true), 2, 2, comm.rank()));
    ASSERT_TRUE(engine);
    (*engine)->initialise(11);
    const EngineOptions& o = (*engine)->options();
    const TestBatch batch(o.model, kShape, 1);
    std::vector<Microbatch> mine(
        static_cast<std::size_t>(o.ranges[static_cast<std::size_t>(o.replica)].size()),
        {batch.tokens, batch.targets, false});
    mine[0].poison_nan = o.replica == 1;
    ASSERT_TRUE((*engine)->compute_gradients(comm, mine));
    VerdictPart part = (*engine)->verdict_part();
    const auto verdict = (*engine)->exchange_verdict(comm, part);
    ASSERT_TRUE(verdict);
    EXPECT_FALSE(verdict->finite);
    EXPECT_TRUE(std::isnan(verdict->loss));
  });
}

TEST(Engine, RanksThatDisagreeAboutStepOrPlanAreStoppedByTheVerdict) {
  for (const bool other_plan : {true, false}) {
    test::run_world(2, [&](Communicator& comm) {
      auto engine = Engine::create(engine_options(model(true), 2, 1, comm.rank()));
      ASSERT_TRUE(engine);
      VerdictPart part = (*engine)->verdict_part();
      part.step = other_plan ? 4 : 4 + comm.rank();
      if (other_plan && comm.rank() == 1) part.plan_digest = hash128("another plan");
      const auto verdict = (*engine)->exchange_verdict(comm, part);
      ASSERT_FALSE(verdict);
      EXPECT_EQ(verdict.error().code, ErrorCode::kInternal);
    });
  }
}

}  // namespace
}  // namespace tenax::compute
