// A GPU's stage for an engine on the host, on the emulated device.
#include "compute/cuda_host_stage.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/cuda/emulated_device.h"

namespace tenax::compute {
namespace {

std::unique_ptr<Stage> host_stage(const ModelOptions& options, const BatchShape& shape,
                                  const StageSettings& settings) {
  auto stage = Stage::create(options, whole_model(options), shape, 1, settings);
  if (!stage) throw std::runtime_error(stage.error().message);
  fill_for_test(**stage);
  return *std::move(stage);
}

TEST(CudaHostStage, GivesTheNumbersOfTheStageOnTheDevice) {
  const ModelOptions options = tiny_gpt2();
  const TestBatch batch(options, {2, 7});
  const StageSettings settings = on_emulated_device();
  const Trained expected =
      train_on_device(*make_device_stage(options, whole_model(options), {2, 7}, settings), batch);
  const auto stage = host_stage(options, {2, 7}, settings);
  EXPECT_TRUE(stage->device()->host_visible());
  Trained actual = train_once(*stage, batch);
  EXPECT_EQ(actual.loss.sum, expected.loss.sum);
  EXPECT_EQ(actual.gradient, expected.gradient);
  // Gradients are added to what is there.
  stage->forward(0, {batch.tokens, batch.targets}, {}, {});
  stage->backward(0, {}, {}, actual.gradient);
  for (std::size_t i = 0; i < actual.gradient.size(); ++i)
    ASSERT_EQ(actual.gradient[i], expected.gradient[i] + expected.gradient[i]);
}

TEST(CudaHostStage, TakesNewWeightsWhenAStepBegins) {
  const ModelOptions options = tiny_llama();
  const TestBatch batch(options, {2, 7});
  const auto stage = host_stage(options, {2, 7}, on_emulated_device(true));
  const double before = stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum;
  for (float& x : stage->values()) x *= 0.5f;
  stage->begin_step();
  const double after = stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum;
  EXPECT_NE(after, before);
  // Also after a step that was broken off between forward and backward.
  stage->forward(0, {batch.tokens, batch.targets}, {}, {});
  for (float& x : stage->values()) x *= 2;
  stage->begin_step();
  EXPECT_EQ(stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum, before);
}

TEST(CudaHostStage, InitialWeightsAreThoseOfTheCpu) {
  const ModelOptions options = tiny_gpt2();
  const auto on_gpu = host_stage(options, {2, 7}, on_emulated_device());
  const auto on_cpu = make_stage(options, whole_model(options), {2, 7});
  on_gpu->initialise(42);
  on_cpu->initialise(42);
  EXPECT_TRUE(
      std::equal(on_gpu->values().begin(), on_gpu->values().end(), on_cpu->values().begin()));
}

TEST(CudaHostStage, NothingOfALostDeviceReachesTheEngineAsANumber) {  // S1
  const auto break_context = emulation_function<void(int)>("tenax_emulation_break_context");
  const ModelOptions options = tiny_gpt2();
  const TestBatch batch(options, {2, 7});
  const auto stage = host_stage(options, {2, 7}, on_emulated_device());
  EXPECT_TRUE(stage->status());
  constexpr int kLaunchFailure = 719;
  break_context(kLaunchFailure);
  const Trained trained = train_once(*stage, batch);
  break_context(0);
  EXPECT_TRUE(std::isnan(trained.loss.sum));
  for (const float x : trained.gradient) ASSERT_TRUE(std::isnan(x));
  ASSERT_FALSE(stage->status());
  EXPECT_EQ(stage->status().error().code, ErrorCode::kDeviceLost);
  EXPECT_TRUE(std::isnan(stage->evaluate({batch.tokens, batch.targets}, {}, {}).sum));
}

TEST(CudaHostStage, TensorParallelismIsRefused) {
  const ModelOptions options = tiny_gpt2();
  StageSpec part = whole_model(options);
  part.tensor = {3, 0};
  const auto stage = CudaHostStage::create(emulated_device(), options, part, {2, 7}, 1, {});
  ASSERT_FALSE(stage);
  EXPECT_EQ(stage.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace tenax::compute
