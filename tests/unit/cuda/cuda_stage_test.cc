// The stage on a GPU against the CPU engine, for each kind of model, its kernels run by an emulated
// device.
#include "compute/cuda_stage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/unit/cuda/emulated_device.h"

namespace tenax::compute {
namespace {

/// Rows of 16 bytes everywhere, three tiles of queries, a padded vocabulary: the packed kernels'
/// way.
ModelOptions aligned(ModelOptions o) {
  o.vocabulary_size = 50;
  o.padded_vocabulary_size = 64;
  o.max_sequence_length = 72;
  o.width = 32;
  o.head_dim = 16;
  o.ffn_width = 48;
  return o;
}

double norm_of(std::span<const float> x) {
  double squares = 0;
  for (const float v : x) squares += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(squares);
}

/// A part of a gradient: where it lies and whose it is.
struct Region {
  std::string name;
  std::size_t offset, size;
};

std::vector<Region> gradient_regions(const Stage& stage) {
  std::vector<Region> regions;
  for (const StageParameter& p : stage.parameters())
    for (const GradientPart& part : p.gradients)
      regions.push_back(
          {p.spec.name, static_cast<std::size_t>(part.offset), static_cast<std::size_t>(p.size)});
  return regions;
}

/// Compares loss and every tensor's gradient. `bound`: on the relative error of each tensor, or a
/// hundredth of it on that of the largest one (the gradient of a key's bias is nothing but
/// rounding: softmax does not feel it).
void compare(const ModelOptions& options, const TestBatch& batch, const StageSettings& settings,
             double bound, float weight_scale = 1) {
  const BatchShape& shape = batch.shape;
  StageSettings on_cpu;
  on_cpu.dropout = settings.dropout;
  on_cpu.dropout_seed = settings.dropout_seed;
  const auto reference = make_stage(options, whole_model(options), shape, 1, on_cpu);
  const std::vector<float> values = device_test_values(*reference, weight_scale);
  std::ranges::copy(values, reference->values().begin());
  const Trained expected = train_once(*reference, batch);
  const auto stage = make_device_stage(options, whole_model(options), shape, settings);
  stage->device()->write(values, stage->values());
  stage->values_changed();
  const Trained actual = train_on_device(*stage, batch);
  EXPECT_NEAR(actual.loss.sum, expected.loss.sum, bound * expected.loss.sum);
  EXPECT_NEAR(actual.loss.z_sum, expected.loss.z_sum, 2 * bound * (expected.loss.z_sum + 0.1));
  EXPECT_EQ(actual.loss.targets, expected.loss.targets);
  for (std::size_t b = 0; b < expected.sample_losses.size(); ++b)
    EXPECT_NEAR(actual.sample_losses[b], expected.sample_losses[b],
                bound * (1 + expected.sample_losses[b]));
  double largest = 0;
  for (const Region& r : gradient_regions(*stage))
    largest = std::max(largest, norm_of(std::span(expected.gradient).subspan(r.offset, r.size)));
  for (const Region& r : gradient_regions(*stage)) {
    std::vector<float> difference(r.size);
    for (std::size_t i = 0; i < r.size; ++i)
      difference[i] = actual.gradient[r.offset + i] - expected.gradient[r.offset + i];
    const double norm = norm_of(std::span(expected.gradient).subspan(r.offset, r.size));
    EXPECT_LE(norm_of(difference), bound * (norm + 0.01 * largest))
        << r.name << ", its norm " << norm << ", the largest " << largest;
  }
}

class CudaStageModels : public testing::TestWithParam<TinyModel> {};

// float32: some hundred roundings of 6e-8, added in another order than on the CPU.
constexpr double kFloatBound = 2e-5;
// BF16: activations and factors of products are rounded to 8 bits; errors of 4e-3 add up over a few
// layers.
constexpr double kBfloat16Bound = 8e-2;

TEST_P(CudaStageModels, Float32EqualsTheCpuWithinRounding) {
  const ModelOptions& options = GetParam().options;
  compare(options, TestBatch(options, {3, 7}), on_emulated_device(), kFloatBound);
}

TEST_P(CudaStageModels, AlignedRowsAndSeveralTilesEqualTheCpuWithinRounding) {
  const ModelOptions options = aligned(GetParam().options);
  compare(options, TestBatch(options, {2, 70}), on_emulated_device(), kFloatBound);
}

TEST_P(CudaStageModels, Bfloat16IsNearTheCpu) {
  // Weights of a trained model's size: larger ones make attention too sharp for 8 bits.
  const ModelOptions options = aligned(GetParam().options);
  compare(options, TestBatch(options, {2, 40}), on_emulated_device(true), kBfloat16Bound, 0.3f);
}

/// Documents of these lengths, one after the other, which add up to the batch.
TestBatch packed(const ModelOptions& options, const BatchShape& shape,
                 const std::vector<std::int32_t>& lengths) {
  TestBatch batch(options, shape);
  for (const std::int32_t length : lengths)
    for (std::int32_t i = 0; i < length; ++i) batch.positions.push_back(i);
  if (batch.positions.size() != batch.tokens.size()) throw std::runtime_error("bad lengths");
  return batch;
}

TEST_P(CudaStageModels, DocumentsOfASampleDoNotSeeEachOther) {
  const ModelOptions& odd = GetParam().options;
  compare(odd, packed(odd, {2, 7}, {3, 4, 1, 1, 5}), on_emulated_device(), kFloatBound);
  // Documents within a tile of 32, over several, and one that begins where a tile does.
  const ModelOptions options = aligned(odd);
  const TestBatch batch = packed(options, {2, 70}, {40, 2, 28, 64, 6});
  compare(options, batch, on_emulated_device(), kFloatBound);
  const auto stage =
      make_device_stage(options, whole_model(options), batch.shape, on_emulated_device());
  const LossSum trained = train_on_device(*stage, batch).loss;
  EXPECT_EQ(stage->evaluate(batch.inputs(), {}, {}).sum, trained.sum);
}

StageSettings with_dropout(StageSettings settings, const DropoutRates& rates) {
  settings.dropout = rates;
  settings.dropout_seed = 77;
  return settings;
}

TEST_P(CudaStageModels, DropoutDropsWhatItDoesOnTheCpu) {
  const auto with_samples = [](TestBatch batch) {
    batch.samples = {5, (std::int64_t{1} << 33) + 1};
    return batch;
  };
  const ModelOptions options = aligned(GetParam().options);
  const TestBatch batch = with_samples(TestBatch(options, {2, 40}));
  const TestBatch documents = with_samples(packed(options, {2, 40}, {33, 7, 40}));
  const DropoutRates rates{0.1, 0.2, 0.3};
  compare(options, batch, with_dropout(on_emulated_device(), rates), kFloatBound);
  compare(options, documents, with_dropout(on_emulated_device(), rates), kFloatBound);
  const ModelOptions& odd = GetParam().options;
  compare(odd, with_samples(TestBatch(odd, {2, 7})), with_dropout(on_emulated_device(), rates),
          kFloatBound);
  compare(options, batch, with_dropout(on_emulated_device(true), rates), kBfloat16Bound, 0.3f);
}

TEST_P(CudaStageModels, EvaluationAndNextTokenAreThoseOfTraining) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 7});
  const auto stage = make_device_stage(options, whole_model(options), {2, 7}, on_emulated_device());
  const Trained trained = train_on_device(*stage, batch);
  const LossSum evaluated = stage->evaluate({batch.tokens, batch.targets}, {}, {});
  EXPECT_EQ(evaluated.sum, trained.loss.sum);
  EXPECT_EQ(evaluated.targets, trained.loss.targets);
  const auto reference = make_stage(options, whole_model(options), {2, 7}, 0);
  const std::vector<std::int32_t> tokens = {3, 1, 4, 1, 5};
  std::vector<float> expected(static_cast<std::size_t>(options.vocabulary_size));
  std::vector<float> logits(expected.size());
  reference->next_token_logits(tokens, expected);
  stage->next_token_logits(tokens, logits);
  for (std::size_t v = 0; v < logits.size(); ++v) EXPECT_NEAR(logits[v], expected[v], 3e-5);
}

TEST_P(CudaStageModels, RecomputationGivesTheSameBitsWithLessMemory) {
  const ModelOptions& options = GetParam().options;
  TestBatch batch = packed(options, {2, 7}, {3, 4, 7});
  TestBatch other = packed(options, {2, 7}, {7, 7});
  batch.samples = {3, 4};
  other.samples = {8, 9};
  const auto settings_of = [](Recompute recompute) {
    StageSettings settings = with_dropout(on_emulated_device(true), {0.1, 0.2, 0.3});
    settings.recompute = recompute;
    return settings;
  };
  // Another microbatch has its forward in between: nothing of one may be left for the other.
  const auto train = [&](Stage& stage) {
    DeviceBuffer gradient = stage.device()->allocate(stage.gradient_size()).value();
    stage.forward(0, batch.inputs(), {}, {});
    stage.forward(1, other.inputs(), {}, {});
    std::vector<float> host(2 * gradient.size());
    for (const int slot : {0, 1}) {
      stage.backward(slot, {}, {}, gradient.span());
      stage.device()->read(gradient.span(),
                           std::span(host).subspan(static_cast<std::size_t>(slot) * gradient.size(),
                                                   gradient.size()));
    }
    EXPECT_TRUE(stage.status());
    return host;
  };
  const auto make = [&](Recompute recompute) {
    return make_device_stage(options, whole_model(options), {2, 7}, settings_of(recompute), 2);
  };
  const auto all = make(Recompute::kNone);
  const std::vector<float> kept = train(*all);
  std::int64_t slot = all->memory().slot;
  for (const Recompute recompute : {Recompute::kSelective, Recompute::kFull}) {
    const auto stage = make(recompute);
    EXPECT_EQ(train(*stage), kept);
    EXPECT_LT(stage->memory().slot, slot);
    slot = stage->memory().slot;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaStageModels, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.name; });

TEST(CudaStage, TwoStagesInFloat32GiveTheBitsOfOne) {
  const ModelOptions options = tiny_gpt2();
  const BatchShape shape{2, 7};
  const TestBatch batch(options, shape);
  const StageSettings settings = on_emulated_device();
  const auto whole = make_device_stage(options, whole_model(options), shape, settings);
  const Trained expected = train_on_device(*whole, batch);
  const auto first = make_device_stage(options, {0, 1, true, false}, shape, settings);
  const auto last = make_device_stage(options, {1, 2, false, true}, shape, settings);
  std::vector<float> between(first->boundary_size());
  std::vector<float> back(first->boundary_size());
  DeviceBuffer first_gradient = first->device()->allocate(first->gradient_size()).value();
  DeviceBuffer last_gradient = last->device()->allocate(last->gradient_size()).value();
  first->forward(0, {batch.tokens, {}}, {}, between);
  last->forward(0, {{}, batch.targets}, between, {});
  last->backward(0, {}, back, last_gradient.span());
  first->backward(0, back, {}, first_gradient.span());
  EXPECT_EQ(last->loss(0).sum, expected.loss.sum);
  const auto compare_part = [&](Stage& stage, const DeviceBuffer& gradient) {
    for (const StageParameter& p : stage.parameters())
      for (const GradientPart& part : p.gradients)
        for (const StageParameter& q : whole->parameters())
          for (const GradientPart& other : q.gradients) {
            if (q.spec.name != p.spec.name) continue;
            if (part.kind != other.kind) continue;
            EXPECT_TRUE(std::equal(gradient.data() + part.offset,
                                   gradient.data() + part.offset + p.size,
                                   expected.gradient.begin() + other.offset))
                << p.spec.name;
          }
  };
  compare_part(*first, first_gradient);
  compare_part(*last, last_gradient);
}

TEST(CudaStage, NothingOfADeviceIsLeftBehind) {
  const auto allocated = emulation_function<std::size_t()>("tenax_emulation_allocated_bytes");
  const std::size_t before = allocated();
  {
    const ModelOptions options = tiny_llama();
    const auto stage =
        make_device_stage(options, whole_model(options), {2, 7}, on_emulated_device(true));
    train_on_device(*stage, TestBatch(options, {2, 7}));
    EXPECT_GT(allocated(), before);
  }
  EXPECT_EQ(allocated(), before);
}

TEST(CudaStage, TheMostThatADeviceHasHeldStaysKnown) {
  const auto device = emulated_device();
  const CudaDevice::Held before = device->memory_held();
  EXPECT_EQ(before.bytes, before.peak_bytes);
  {
    const CudaMemory first = device->allocate_bytes(3000, "a test").value();
    const CudaMemory second = device->allocate_bytes(500, "a test").value();
    EXPECT_EQ(device->memory_held().bytes, before.bytes + 3500);
  }
  const CudaMemory less = device->allocate_bytes(1000, "a test").value();
  EXPECT_EQ(device->memory_held().bytes, before.bytes + 1000);
  EXPECT_EQ(device->memory_held().peak_bytes, before.bytes + 3500);
}

TEST(CudaStage, TheMemoryPlanIsWhatIsAllocated) {
  const auto allocated = emulation_function<std::size_t()>("tenax_emulation_allocated_bytes");
  for (const bool bfloat16 : {false, true}) {
    const ModelOptions options = aligned(tiny_llama());
    const StageSettings settings =
        bfloat16 ? with_dropout(on_emulated_device(true), {0, 0.1, 0.1}) : on_emulated_device();
    const std::size_t before = allocated();
    const auto stage =
        CudaStage::create(settings.cuda, options, whole_model(options), {2, 40}, 2, settings);
    ASSERT_TRUE(stage);
    const StageMemory plan = (*stage)->memory();
    EXPECT_EQ(static_cast<std::int64_t>(allocated() - before), plan.total(2) - plan.gradient);
  }
}

TEST(CudaStage, WithoutEnoughMemoryThePlanIsNamed) {
  const auto fail = emulation_function<void(int)>("tenax_emulation_fail_next_allocations");
  const ModelOptions options = tiny_gpt2();
  const StageSettings settings = on_emulated_device();
  fail(1);
  const auto stage =
      CudaStage::create(settings.cuda, options, whole_model(options), {2, 7}, 1, settings);
  ASSERT_FALSE(stage);
  EXPECT_EQ(stage.error().code, ErrorCode::kNoSpace);
  EXPECT_NE(stage.error().message.find("of device memory"), std::string::npos)
      << stage.error().message;
  EXPECT_NE(stage.error().message.find("the plan: values"), std::string::npos)
      << stage.error().message;
  // What there is besides goes on.
  EXPECT_TRUE(settings.cuda->status());
  EXPECT_TRUE(CudaStage::create(settings.cuda, options, whole_model(options), {2, 7}, 1, settings));
}

TEST(CudaStage, AFaultOfTheDeviceStaysAndIsTold) {
  const auto break_context = emulation_function<void(int)>("tenax_emulation_break_context");
  const ModelOptions options = tiny_gpt2();
  const TestBatch batch(options, {2, 7});
  const StageSettings settings = on_emulated_device();
  const auto stage = make_device_stage(options, whole_model(options), {2, 7}, settings);
  DeviceBuffer gradient = stage->device()->allocate(stage->gradient_size()).value();
  constexpr int kIllegalAddress = 700;
  break_context(kIllegalAddress);
  stage->forward(0, {batch.tokens, batch.targets}, {}, {});
  stage->backward(0, {}, {}, gradient.span());
  break_context(0);
  for (int i = 0; i < 2; ++i) {
    const Status status = stage->device()->status();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kDeviceLost);
    EXPECT_NE(status.error().message.find("(700)"), std::string::npos) << status.error().message;
  }
}

TEST(CudaStage, NothingOfALostDeviceReachesTheHostAsANumber) {  // S1
  const auto break_context = emulation_function<void(int)>("tenax_emulation_break_context");
  const ModelOptions options = tiny_gpt2();
  const TestBatch batch(options, {2, 7});
  const StageSettings settings = on_emulated_device();
  const auto stage = make_device_stage(options, whole_model(options), {2, 7}, settings);
  const auto first = make_device_stage(options, {0, 1, true, false}, {2, 7}, settings);
  DeviceBuffer gradient = stage->device()->allocate(stage->gradient_size()).value();
  EXPECT_TRUE(stage->status());
  constexpr int kLaunchFailure = 719;
  break_context(kLaunchFailure);
  stage->forward(0, {batch.tokens, batch.targets}, {}, {});
  stage->backward(0, {}, {}, gradient.span());
  std::vector<float> output(first->boundary_size());
  first->forward(0, {batch.tokens, {}}, {}, output);
  break_context(0);
  EXPECT_TRUE(std::isnan(stage->loss(0).sum));
  for (const float x : output) ASSERT_TRUE(std::isnan(x));
  ASSERT_FALSE(stage->status());
  EXPECT_EQ(stage->status().error().code, ErrorCode::kDeviceLost);
  EXPECT_TRUE(std::isnan(stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum));
  std::vector<float> logits(static_cast<std::size_t>(options.vocabulary_size));
  stage->next_token_logits(std::span(batch.tokens).first(3), logits);
  for (const float x : logits) ASSERT_TRUE(std::isnan(x));
}

TEST(CudaStage, InitialWeightsAreThoseOfTheCpu) {
  const ModelOptions options = tiny_gpt2();
  const auto on_gpu =
      make_device_stage(options, whole_model(options), {2, 7}, on_emulated_device());
  const auto on_cpu = make_stage(options, whole_model(options), {2, 7});
  on_gpu->initialise(42);
  on_cpu->initialise(42);
  std::vector<float> values(on_gpu->values().size());
  on_gpu->device()->read(on_gpu->values(), values);
  EXPECT_TRUE(std::ranges::equal(values, on_cpu->values()));
}

TEST(CudaStage, NewWeightsAreTakenByTheNextForwardInBfloat16Too) {
  const ModelOptions options = tiny_llama();
  const TestBatch batch(options, {2, 7});
  const auto stage =
      make_device_stage(options, whole_model(options), {2, 7}, on_emulated_device(true));
  const double before = stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum;
  const std::vector<float> values = device_test_values(*stage);
  stage->device()->write(device_test_values(*stage, 0.5f), stage->values());
  EXPECT_NE(stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum, before);
  stage->device()->write(values, stage->values());
  EXPECT_EQ(stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum, before);
}

TEST(CudaStage, ValuesMayLieInABufferOfTheEngine) {
  const ModelOptions options = tiny_gpt2();
  StageSettings settings = on_emulated_device();
  const auto plan = plan_stage_memory(options, whole_model(options), {2, 7}, settings);
  ASSERT_TRUE(plan);
  const DeviceBuffer values =
      settings.cuda->allocate(static_cast<std::size_t>(plan->values) / sizeof(float)).value();
  settings.values = values.span();
  const auto stage = make_device_stage(options, whole_model(options), {2, 7}, settings);
  EXPECT_EQ(stage->values().data(), values.data());
  const TestBatch batch(options, {2, 7});
  const auto own = make_device_stage(options, whole_model(options), {2, 7}, on_emulated_device());
  EXPECT_EQ(train_on_device(*stage, batch).gradient, train_on_device(*own, batch).gradient);
}

TEST(CudaStage, ItsDescriptionNamesTheAlgorithmsInUse) {
  const ModelOptions options = tiny_gpt2();
  const auto stage = make_device_stage(options, whole_model(options), {2, 7}, on_emulated_device());
  train_on_device(*stage, TestBatch(options, {2, 7}));
  const std::string text = stage->kernel_description();
  EXPECT_TRUE(text.starts_with("cuda emulated sm_90 driver 13000")) << text;
  EXPECT_NE(text.find("\nmatmul f32-f32 nt m14 n"), std::string::npos) << text;
}

TEST(TokenBuckets, HoldTheRowsOfEachTokenInOrder) {
  const std::vector<std::int32_t> tokens = {5, 2, 5, 0, 2, 5};
  const TokenBuckets b = token_buckets(tokens, 0, 6);
  EXPECT_EQ(b.tokens, (std::vector<std::int32_t>{0, 2, 5}));
  EXPECT_EQ(b.begins, (std::vector<std::int32_t>{0, 1, 3, 6}));
  EXPECT_EQ(b.order, (std::vector<std::int32_t>{3, 1, 4, 0, 2, 5}));
  const TokenBuckets part = token_buckets(tokens, 2, 3);
  EXPECT_EQ(part.tokens, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(part.begins, (std::vector<std::int32_t>{0, 2}));
  EXPECT_EQ(part.order, (std::vector<std::int32_t>{1, 4}));
  EXPECT_TRUE(token_buckets(tokens, 3, 2).tokens.empty());
}

}  // namespace
}  // namespace tenax::compute
