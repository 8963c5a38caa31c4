// Training with bfloat16 factors: the same bits on every build, split and thread count, and close
// to fp32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "compute/adamw.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

StageSettings bf16(cpu::Isa isa = cpu::best_isa(), Recompute recompute = Recompute::kNone,
                   int num_threads = 1) {
  StageSettings settings;
  settings.isa = isa;
  settings.recompute = recompute;
  settings.num_threads = num_threads;
  settings.precision = Precision::kBf16;
  return settings;
}

double norm(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

class Bf16Stage : public testing::TestWithParam<TinyModel> {};

TEST_P(Bf16Stage, BuildsRecomputationAndThreadsGiveTheSameBits) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 9});
  const auto train = [&](const StageSettings& settings) {
    const auto stage = make_stage(options, whole_model(options), batch.shape, 1, settings);
    return train_once(*stage, batch);
  };
  const Trained expected = train(bf16());
  for (const cpu::Isa isa : cpu::available_isas()) {
    const Trained trained = train(bf16(isa));
    EXPECT_EQ(trained.loss.sum, expected.loss.sum) << cpu::to_string(isa);
    EXPECT_EQ(trained.gradient, expected.gradient) << cpu::to_string(isa);
  }
  EXPECT_EQ(train(bf16(cpu::best_isa(), Recompute::kFull)).gradient, expected.gradient);
  EXPECT_EQ(train(bf16(cpu::best_isa(), Recompute::kNone, 3)).gradient, expected.gradient);
}

TEST_P(Bf16Stage, IsCloseToFp32ButNotEqual) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 9});
  const auto rounded = make_stage(options, whole_model(options), batch.shape, 1, bf16());
  const auto exact = make_stage(options, whole_model(options), batch.shape);
  const Trained x = train_once(*rounded, batch);
  const Trained y = train_once(*exact, batch);
  EXPECT_NE(x.loss.sum, y.loss.sum);
  // Each factor has a relative error of at most 2^-9, a product twice that; some dozens of products
  // lie one behind the other in two layers, and their errors add up like their squares.
  EXPECT_NEAR(x.loss.sum, y.loss.sum, 0.01 * y.loss.sum);
  std::vector<float> difference(x.gradient.size());
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] = x.gradient[i] - y.gradient[i];
  EXPECT_LT(norm(difference), 0.05 * norm(y.gradient));
}

INSTANTIATE_TEST_SUITE_P(Models, Bf16Stage, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.name; });

TEST(Bf16Training, LearnsWhatFp32Learns) {
  ModelOptions options = tiny_llama();
  const TestBatch batch(options, {4, 9});
  const auto learn = [&](const StageSettings& settings) {
    const auto stage = make_stage(options, whole_model(options), batch.shape, 1, settings);
    stage->initialise(3);
    std::vector<float> m(stage->values().size()), v(stage->values().size());
    double loss = 0;
    for (int step = 1; step <= 60; ++step) {
      const Trained trained = train_once(*stage, batch);
      loss = trained.loss.sum / static_cast<double>(trained.loss.targets);
      const AdamwStep update{step, 0.01, 1.0 / static_cast<double>(trained.loss.targets)};
      adamw_update({0.9, 0.95, 1e-8, 0}, update, {stage->values(), trained.gradient, m, v});
    }
    return loss;
  };
  const double exact = learn({});
  const double rounded = learn(bf16());
  EXPECT_LT(exact, 1.0);
  EXPECT_NEAR(rounded, exact, 0.05);
}

TEST(Arithmetic, IsTheSameTextWhereBitsAreTheSame) {
  using cpu::Isa;
  EXPECT_EQ(arithmetic(Isa::kAvx2, Precision::kFp32), arithmetic(Isa::kAvx512, Precision::kFp32));
  EXPECT_NE(arithmetic(Isa::kAvx2, Precision::kFp32), arithmetic(Isa::kPortable, Precision::kFp32));
  EXPECT_EQ(arithmetic(Isa::kAvx2, Precision::kBf16), arithmetic(Isa::kPortable, Precision::kBf16));
  EXPECT_NE(arithmetic(Isa::kAvx2, Precision::kBf16), arithmetic(Isa::kAvx2, Precision::kFp32));
}

}  // namespace
}  // namespace tenax::compute
