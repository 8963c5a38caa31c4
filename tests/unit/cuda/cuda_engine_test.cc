// An engine whose weights, gradients and optimizer live on a GPU, emulated: the bits of the same
// arithmetic done on the host, in every layout, and what of it the host gets to see.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>

#include "compute/engine.h"
#include "compute/nccl_peers.h"
#include "compute/solo_communicator.h"
#include "compute/tensor_norm.h"
#include "tests/support/even_layout.h"
#include "tests/support/thread_world.h"
#include "tests/unit/cuda/emulated_device.h"

namespace tenax::compute {
namespace {

constexpr BatchShape kShape{2, 7};
constexpr int kMicrobatches = 6;
constexpr std::uint64_t kSeed = 3;

/// How gradients of replicas are added.
enum class Through { kHosts, kNccl };

struct Layout {
  int dp = 1;
  int pp = 1;
  int zero = 0;
  Through through = Through::kHosts;
};

/// All forwards, then all backwards: every microbatch has a slot.
PipelineSchedule schedule(int stage, int num_stages, int m) {
  PipelineSchedule s;
  for (int i = 0; i < m; ++i) {
    if (stage > 0) s.push_back({ActionKind::kRecvForward, i, i});
    s.push_back({ActionKind::kForward, i, i});
    if (stage + 1 < num_stages) s.push_back({ActionKind::kSendForward, i, i});
  }
  for (int i = 0; i < m; ++i) {
    if (stage + 1 < num_stages) s.push_back({ActionKind::kRecvBackward, i, i});
    s.push_back({ActionKind::kBackward, i, i});
    if (stage > 0) s.push_back({ActionKind::kSendBackward, i, i});
  }
  return s;
}

EngineOptions engine_options(const ModelOptions& model, const Layout& layout, int rank,
                             Precision precision = Precision::kFp32) {
  const auto [dp, pp, zero, through] = layout;
  EngineOptions o;
  o.shape = kShape;
  test::lay_out(o, model, {dp, pp}, rank, kMicrobatches);
  const int mine = o.ranges[static_cast<std::size_t>(o.replica)].size();
  o.schedule = schedule(o.stage, pp, mine);
  o.num_outboxes = mine;
  o.zero = zero;
  o.settings.cuda = emulated_device(true);
  o.settings.precision = precision;
  return o;
}

TestBatch batch_of(const ModelOptions& model, std::int64_t step, int microbatch) {
  return {model, kShape, static_cast<std::uint64_t>(100 * step + microbatch)};
}

/// Loss and norm of a step; the update is clipped.
struct StepResult {
  double loss = 0;
  double norm = 0;
  bool operator==(const StepResult&) const = default;
};
constexpr double kClip = 0.5;
constexpr double kRate = 1e-2;

Status compute_step(Engine& engine, Communicator& comm, std::int64_t step) {
  const EngineOptions& o = engine.options();
  const MicrobatchRange mine = o.ranges[static_cast<std::size_t>(o.replica)];
  std::vector<TestBatch> batches;
  for (int mb = mine.begin; mb < mine.end; ++mb) batches.push_back(batch_of(o.model, step, mb));
  std::vector<Microbatch> microbatches;
  for (const TestBatch& b : batches) microbatches.push_back({b.tokens, b.targets, false});
  return engine.compute_gradients(comm, microbatches);
}

Verdict judge(Engine& engine, Communicator& comm, std::int64_t step) {
  VerdictPart part = engine.verdict_part();
  part.step = step;
  return engine.exchange_verdict(comm, part).value();
}

StepResult train_step(Engine& engine, Communicator& comm, std::int64_t step) {
  const Status computed = compute_step(engine, comm, step);
  if (!computed) throw std::runtime_error(computed.error().message);
  const Verdict verdict = judge(engine, comm, step);
  engine.apply_update({verdict.grad_norm, kClip, verdict.targets, kRate, step});
  const Status shared = engine.share_weights(comm);
  if (!shared) throw std::runtime_error(shared.error().message);
  return {verdict.loss, verdict.grad_norm};
}

std::vector<float> read(Engine& engine, std::span<const float> buffer) {
  std::vector<float> host(buffer.size());
  engine.device().read(buffer, host);
  return host;
}

struct Trained {
  std::vector<StepResult> steps;
  std::map<std::string, std::vector<float>> tensors;  ///< weights, m and v by name
};

/// Every element of a tensor is set by whoever holds it; all who do hold the same bits.
void collect(Engine& engine, Trained& out) {
  const std::vector<float> values = read(engine, engine.values());
  const std::vector<float> m = read(engine, engine.adam_m());
  const std::vector<float> v = read(engine, engine.adam_v());
  const auto put = [&](const std::string& name, std::size_t size, std::size_t at,
                       std::span<const float> piece) {
    std::vector<float>& tensor = out.tensors[name];
    tensor.resize(size, NAN);
    for (std::size_t i = 0; i < piece.size(); ++i) {
      float& x = tensor[at + i];
      EXPECT_TRUE(std::isnan(x) || x == piece[i]) << name << " element " << at + i;
      x = piece[i];
    }
  };
  for (const StageParameter& p : engine.parameters())
    put("w " + p.spec.name, static_cast<std::size_t>(p.size), 0,
        std::span(values).subspan(static_cast<std::size_t>(p.offset),
                                  static_cast<std::size_t>(p.size)));
  for (const MomentPiece& piece : engine.moments()) {
    const StageParameter& p = engine.parameters()[piece.parameter];
    const auto begin = static_cast<std::size_t>(piece.begin);
    const auto n = static_cast<std::size_t>(piece.end - piece.begin);
    const auto at = static_cast<std::size_t>(piece.offset);
    const auto size = static_cast<std::size_t>(p.size);
    put("m " + p.spec.name, size, begin, std::span(m).subspan(at, n));
    put("v " + p.spec.name, size, begin, std::span(v).subspan(at, n));
  }
}

Trained train(const ModelOptions& model, const Layout& layout, int num_steps,
              Precision precision = Precision::kFp32) {
  Trained out;
  std::mutex mutex;
  test::InMemoryRendezvous rendezvous;
  const int world_size = layout.dp * layout.pp;
  test::run_world(world_size, [&](Communicator& comm) {
    const EngineOptions options = engine_options(model, layout, comm.rank(), precision);
    auto engine = Engine::create(options);
    ASSERT_TRUE(engine) << engine.error().message;
    std::unique_ptr<DevicePeers> peers;
    if (layout.through == Through::kNccl) {
      auto formed = NcclPeers::create(
          options.settings.cuda, {comm.rank(), world_size, std::chrono::seconds(60), "engines"},
          rendezvous);
      ASSERT_TRUE(formed) << formed.error().message;
      peers = *std::move(formed);
    }
    ASSERT_TRUE((*engine)->use(peers.get()));
    (*engine)->initialise(kSeed);
    std::vector<StepResult> steps;
    for (int step = 1; step <= num_steps; ++step) steps.push_back(train_step(**engine, comm, step));
    const std::scoped_lock lock(mutex);
    collect(**engine, out);
    if (comm.rank() == 0) out.steps = steps;
  });
  return out;
}

/// The same training with everything but forward and backward done by the CPU's arithmetic: the
/// gradient of each microbatch comes to the host, the new weights go back.
Trained train_by_hand(const ModelOptions& model, int num_steps, Precision precision) {
  const StageSettings settings = on_emulated_device(precision == Precision::kBf16);
  auto stage = CudaStage::create(settings.cuda, model, whole_model(model), kShape, 1, settings);
  if (!stage) throw std::runtime_error(stage.error().message);
  (*stage)->initialise(kSeed);
  Device& device = *(*stage)->device();
  std::vector<float> values((*stage)->values().size());
  device.read((*stage)->values(), values);
  std::vector<float> m(values.size());
  std::vector<float> v(values.size());
  DeviceBuffer on_device = device.allocate((*stage)->gradient_size()).value();
  Trained out;
  for (int step = 1; step <= num_steps; ++step) {
    std::vector<std::vector<float>> gradients;
    std::vector<Subtree> leaves;
    std::vector<const float*> data;
    double loss = 0;
    std::int64_t targets = 0;
    for (int mb = 0; mb < kMicrobatches; ++mb) {
      const TestBatch batch = batch_of(model, step, mb);
      (*stage)->forward(0, {batch.tokens, batch.targets}, {}, {});
      (*stage)->backward(0, {}, {}, on_device.span());
      gradients.emplace_back(on_device.size());
      device.read(on_device.span(), gradients.back());
      leaves.push_back({mb, 0});
      loss += (*stage)->loss(0).sum;
      targets += (*stage)->loss(0).targets;
    }
    for (const auto& gradient : gradients) data.push_back(gradient.data());
    std::vector<float> sum(on_device.size());
    sum_subtrees(leaves, data, sum.data(), sum.size());
    double squares = 0;
    const auto part = [&](std::span<float> all, std::int64_t offset, std::int64_t size) {
      return all.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
    };
    for (const StageParameter& p : (*stage)->parameters()) {
      const auto gradient = part(sum, p.offset, p.size);
      if (p.gradients.size() == 2) {
        const auto second = part(sum, p.gradients[1].offset, p.size);
        for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] += second[i];
      }
      squares += sum_of_squares(gradient);
    }
    const double norm = std::sqrt(squares) / static_cast<double>(targets);
    AdamwStep update;
    update.step = step;
    update.learning_rate = kRate;
    update.gradient_scale = 1.0 / static_cast<double>(targets);
    if (norm > kClip) update.gradient_scale *= kClip / norm;
    for (const StageParameter& p : (*stage)->parameters())
      adamw_update({}, update,
                   {part(values, p.offset, p.size), part(sum, p.offset, p.size),
                    part(m, p.offset, p.size), part(v, p.offset, p.size), p.spec.decay});
    device.write(values, (*stage)->values());
    out.steps.push_back({loss / static_cast<double>(targets), norm});
  }
  for (const StageParameter& p : (*stage)->parameters()) {
    const auto keep = [&](const std::string& kind, const std::vector<float>& all) {
      const auto begin = all.begin() + p.offset;
      out.tensors[kind + p.spec.name] = {begin, begin + p.size};
    };
    keep("w ", values);
    keep("m ", m);
    keep("v ", v);
  }
  return out;
}

void expect_same(const Trained& actual, const Trained& expected) {
  EXPECT_EQ(actual.steps, expected.steps);
  ASSERT_EQ(actual.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    ASSERT_TRUE(actual.tensors.contains(name)) << name;
    EXPECT_EQ(actual.tensors.at(name), tensor) << name;
  }
}

TEST(CudaEngine, HasTheBitsOfTheHostsArithmetic) {
  for (const ModelOptions& model : {tiny_gpt2(), tiny_llama()})
    for (const Precision precision : {Precision::kFp32, Precision::kBf16})
      expect_same(train(model, {}, 3, precision), train_by_hand(model, 3, precision));
}

TEST(CudaEngine, EveryLayoutHasTheBitsOfOneProcess) {  // T2
  for (const ModelOptions& model : {tiny_gpt2(), tiny_llama()}) {
    const Trained alone = train(model, {}, 2);
    for (const Layout layout :
         {Layout{2, 1, 0}, Layout{3, 1, 1}, Layout{1, 2, 0}, Layout{2, 2, 0}, Layout{3, 2, 1}}) {
      SCOPED_TRACE(testing::Message() << layout.dp << "x" << layout.pp << " zero " << layout.zero);
      expect_same(train(model, layout, 2), alone);
    }
  }
}

TEST(CudaEngine, SumsFromGpuToGpuHaveTheBitsOfOneProcess) {  // T2
  setenv("TENAX_CUDA_LIBS", TENAX_STUB_LIBRARIES, 1);
  for (const ModelOptions& model : {tiny_gpt2(), tiny_llama()}) {
    const Trained alone = train(model, {}, 2);
    for (const Layout layout : {Layout{2, 1, 0, Through::kNccl}, Layout{3, 1, 1, Through::kNccl},
                                Layout{3, 2, 0, Through::kNccl}, Layout{2, 2, 1, Through::kNccl}}) {
      SCOPED_TRACE(testing::Message() << layout.dp << "x" << layout.pp << " zero " << layout.zero);
      expect_same(train(model, layout, 2), alone);
    }
  }
  const Trained alone = train(tiny_gpt2(), {}, 2, Precision::kBf16);
  expect_same(train(tiny_gpt2(), {3, 1, 1, Through::kNccl}, 2, Precision::kBf16), alone);
  unsetenv("TENAX_CUDA_LIBS");
}

std::size_t copied_bytes(bool to_host) {
  static const auto copied = emulation_function<std::size_t(int)>("tenax_emulation_copied_bytes");
  return copied(to_host ? 1 : 0);
}

TEST(CudaEngine, OfAStepTheHostSeesLossesAndSumsOfSquares) {
  ModelOptions model = tiny_gpt2();
  model.width = 96;
  model.ffn_width = 384;
  auto engine = Engine::create(engine_options(model, {}, 0)).value();
  engine->initialise(kSeed);
  SoloCommunicator comm;
  train_step(*engine, comm, 1);  // the table of what an update goes through is written once
  const std::size_t read_before = copied_bytes(true);
  const std::size_t written_before = copied_bytes(false);
  train_step(*engine, comm, 2);
  std::size_t chunks = 0;
  for (const StageParameter& p : engine->parameters())
    chunks += num_norm_chunks(static_cast<std::size_t>(p.size));
  constexpr std::size_t kTokens = 2 * 7;
  // A loss and a z-loss for each token, a sum for each chunk.
  EXPECT_EQ(copied_bytes(true) - read_before,
            (kMicrobatches * 2 * kTokens + chunks) * sizeof(double));
  // Tokens, targets and the sorted tokens of the embedding's gradient.
  EXPECT_LE(copied_bytes(false) - written_before,
            kMicrobatches * (5 * kTokens + 1) * sizeof(std::int32_t));
  EXPECT_GT(engine->values().size_bytes(), 1000 * kTokens);
}

TEST(CudaEngine, AnUpdateIsOneLaunch) {
  const auto num_launches = emulation_function<std::size_t()>("tenax_emulation_num_launches");
  auto engine = Engine::create(engine_options(tiny_gpt2(), {}, 0)).value();
  engine->initialise(kSeed);
  SoloCommunicator comm;
  ASSERT_TRUE(compute_step(*engine, comm, 1));
  const Verdict verdict = judge(*engine, comm, 1);
  ASSERT_TRUE(engine->device().status());
  const std::size_t before = num_launches();
  engine->apply_update({verdict.grad_norm, kClip, verdict.targets, kRate, 1});
  EXPECT_EQ(num_launches() - before, 1u) << engine->parameters().size() << " tensors";
}

TEST(CudaEngine, WhatIsReadIsTheStateAndMayBeStoredElsewhere) {
  const ModelOptions model = tiny_llama();
  SoloCommunicator comm;
  auto engine = Engine::create(engine_options(model, {}, 0)).value();
  engine->initialise(kSeed);
  train_step(*engine, comm, 1);
  std::vector<float> state(engine->state_size());
  const auto whole = engine->begin_reading(state);
  ASSERT_TRUE(whole);
  ASSERT_TRUE(engine->finish_reading());
  std::vector<float> parts;
  for (const std::span<float> part : engine->state()) {
    const std::vector<float> host = read(*engine, part);
    EXPECT_EQ(engine->hash_of(part).value(), hash128(std::as_bytes(std::span(host))));
    parts.insert(parts.end(), host.begin(), host.end());
  }
  EXPECT_EQ(state, parts);

  const StepResult next = train_step(*engine, comm, 2);
  auto other = Engine::create(engine_options(model, {}, 0)).value();
  const Engine::HostState host = other->host_state().value();
  std::size_t at = 0;
  for (const std::span<float> part : host.parts) {
    std::copy_n(state.begin() + static_cast<std::ptrdiff_t>(at), part.size(), part.begin());
    at += part.size();
  }
  ASSERT_TRUE(other->store(host));
  EXPECT_EQ(train_step(*other, comm, 2), next);
  EXPECT_EQ(read(*other, other->values()), read(*engine, engine->values()));
}

TEST(CudaEngine, APeerThatGetsTheStateHasTheSameBits) {
  const ModelOptions model = tiny_gpt2();
  std::vector<float> values[2];
  test::run_world(2, [&](Communicator& comm) {
    auto engine = Engine::create(engine_options(model, {2, 1, 0}, comm.rank())).value();
    if (comm.rank() == 0) {
      engine->initialise(kSeed);
      ASSERT_TRUE(engine->send_state(comm, 1));
    } else {
      ASSERT_TRUE(engine->recv_state(comm, 0));
    }
    train_step(*engine, comm, 1);
    values[comm.rank()] = read(*engine, engine->values());
  });
  EXPECT_FALSE(values[0].empty());
  EXPECT_EQ(values[0], values[1]);
}

TEST(CudaEngine, AnEngineOfTheSameDeviceTakesTheState) {
  const ModelOptions model = tiny_gpt2();
  const EngineOptions options = engine_options(model, {}, 0);
  auto before = Engine::create(options).value();
  before->initialise(kSeed);
  auto after = Engine::create(options).value();
  ASSERT_TRUE(after->take_state(*before));
  EXPECT_EQ(read(*after, after->values()), read(*before, before->values()));
}

TEST(CudaEngine, AStepComputedAgainHasTheHashUnlessABitWasSet) {
  const ModelOptions model = tiny_gpt2();
  SoloCommunicator comm;
  auto engine = Engine::create(engine_options(model, {}, 0)).value();
  engine->initialise(kSeed);
  ASSERT_TRUE(compute_step(*engine, comm, 1));
  const double norm = judge(*engine, comm, 1).grad_norm;
  const Hash128 hash = engine->own_gradient_hash().value();
  ASSERT_TRUE(compute_step(*engine, comm, 1));
  EXPECT_EQ(engine->own_gradient_hash().value(), hash);
  std::vector<TestBatch> batches;
  for (int mb = 0; mb < kMicrobatches; ++mb) batches.push_back(batch_of(model, 1, mb));
  std::vector<Microbatch> microbatches;
  for (const TestBatch& b : batches) microbatches.push_back({b.tokens, b.targets, false});
  microbatches[2].set_gradient_bits = 1U << 30;
  ASSERT_TRUE(engine->compute_gradients(comm, microbatches));
  EXPECT_NE(engine->own_gradient_hash().value(), hash);
  EXPECT_GT(judge(*engine, comm, 1).grad_norm, 1e6 * norm);
  microbatches[2].set_gradient_bits = 0;
  microbatches[3].poison_nan = true;
  ASSERT_TRUE(engine->compute_gradients(comm, microbatches));
  EXPECT_FALSE(judge(*engine, comm, 1).finite);
}

TEST(CudaEngine, ASnapshotIsReadBesideTheNextStepAndBeforeItsUpdate) {
  const ModelOptions model = tiny_gpt2();
  SoloCommunicator comm;
  auto engine = Engine::create(engine_options(model, {}, 0)).value();
  engine->initialise(kSeed);
  train_step(*engine, comm, 1);
  std::vector<float> expected;
  for (const std::span<float> part : engine->state()) {
    const std::vector<float> host = read(*engine, part);
    expected.insert(expected.end(), host.begin(), host.end());
  }
  constexpr float kUnread = -77;
  std::vector<float> snapshot(engine->state_size(), kUnread);
  EXPECT_EQ(engine->begin_reading(snapshot).value(), false);
  ASSERT_TRUE(compute_step(*engine, comm, 2));
  // Nothing of the step has waited for it: the copy is as late as it may be.
  EXPECT_TRUE(std::ranges::all_of(snapshot, [&](float x) { return x == kUnread; }));
  const Verdict verdict = judge(*engine, comm, 2);
  engine->apply_update({verdict.grad_norm, kClip, verdict.targets, kRate, 2});
  ASSERT_TRUE(engine->finish_reading());
  EXPECT_EQ(snapshot, expected);
  EXPECT_NE(read(*engine, engine->values()),
            std::vector<float>(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(
                                                                        engine->values().size())));
}

TEST(CudaEngine, NothingOfALostDeviceIsANumber) {  // S1
  const auto break_context = emulation_function<void(int)>("tenax_emulation_break_context");
  SoloCommunicator comm;
  auto engine = Engine::create(engine_options(tiny_gpt2(), {}, 0)).value();
  engine->initialise(kSeed);
  train_step(*engine, comm, 1);
  std::vector<float> state(engine->state_size());
  constexpr int kLaunchFailure = 719;
  break_context(kLaunchFailure);
  const Status computed = compute_step(*engine, comm, 2);
  break_context(0);
  ASSERT_FALSE(computed);
  EXPECT_EQ(computed.error().code, ErrorCode::kDeviceLost);
  const auto begun = engine->begin_reading(state);
  EXPECT_FALSE(begun && engine->finish_reading()) << "no snapshot of it is whole";
  EXPECT_FALSE(engine->hash_of(engine->values()));
  EXPECT_FALSE(engine->own_gradient_hash());
  for (const float x : read(*engine, engine->values())) ASSERT_TRUE(std::isnan(x));
  std::vector<double> sums(1);
  const NormRange range{engine->values().first(16), sums};
  engine->device().chunk_squares({&range, 1});
  EXPECT_TRUE(std::isnan(sums[0]));
}

}  // namespace
}  // namespace tenax::compute
