// Dropout masks are functions of seed, sample, place and element, and nothing else.
#include "compute/dropout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "compute/cpu/vector_ops.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

StageSettings with_dropout(Recompute recompute = Recompute::kNone, int num_threads = 1) {
  StageSettings settings;
  settings.recompute = recompute;
  settings.num_threads = num_threads;
  settings.dropout = {0.2, 0.3, 0.25};
  settings.dropout_seed = 7;
  return settings;
}

TEST(DropoutMask, KeepsTheGivenShareOfRowsAndOfColumnsAndOfNeighbours) {
  constexpr int kRows = 1000;
  constexpr int kColumns = 1000;
  for (const double rate : {0.1, 0.5}) {
    const DropoutSite site = dropout_site(1, "layers.0.ffn.output", rate);
    std::vector<double> columns(kColumns);
    double total = 0;
    double both = 0;
    double worst_row = 0;
    const double deviation = std::sqrt(rate * (1 - rate));
    std::vector<bool> above(kColumns);
    for (std::uint64_t r = 0; r < kRows; ++r) {
      const DropoutRow row = dropout_row(site, 42, r);
      double dropped = 0;
      for (std::uint32_t c = 0; c < kColumns; ++c) {
        const float factor = dropout_factor(row, c);
        EXPECT_TRUE(factor == 0 || factor == static_cast<float>(1 / (1 - rate)));
        const bool gone = factor == 0;
        dropped += gone ? 1 : 0;
        columns[c] += gone ? 1 : 0;
        both += gone && above[c] ? 1 : 0;
        above[c] = gone;
      }
      total += dropped;
      worst_row = std::max(worst_row, std::abs(dropped / kColumns - rate));
    }
    // Standard deviations of binomial counts; among 1000 rows or columns five are not passed by
    // chance once in a thousand runs.
    EXPECT_NEAR(total / kRows / kColumns, rate, 5 * deviation / 1000);
    EXPECT_LT(worst_row, 5 * deviation / std::sqrt(kColumns));
    for (const double count : columns)
      EXPECT_NEAR(count / kRows, rate, 5 * deviation / std::sqrt(kRows));
    EXPECT_NEAR(both / (kRows - 1) / kColumns, rate * rate, 5 * rate / 1000);
  }
}

TEST(DropoutMask, DependsOnSeedSamplePlaceAndRow) {
  const auto mask = [](std::uint64_t seed, std::string_view name, std::int64_t sample,
                       std::uint64_t row) {
    std::vector<bool> kept;
    for (std::uint32_t c = 0; c < 64; ++c)
      kept.push_back(dropout_factor(dropout_row(dropout_site(seed, name, 0.5), sample, row), c) >
                     0);
    return kept;
  };
  const auto first = mask(1, "embedding", 3, 5);
  EXPECT_EQ(first, mask(1, "embedding", 3, 5));
  EXPECT_NE(first, mask(2, "embedding", 3, 5));
  EXPECT_NE(first, mask(1, "layers.0.ffn.output", 3, 5));
  EXPECT_NE(first, mask(1, "embedding", 4, 5));
  EXPECT_NE(first, mask(1, "embedding", 3, 6));
  EXPECT_NE(first, mask(1, "embedding", std::int64_t{3} << 32, 5));
}

TEST(DropoutMask, EveryBuildOfTheKernelsComputesTheFunction) {
  for (const cpu::Isa isa : cpu::available_isas())
    for (std::size_t n : {1u, 16u, 37u}) {
      const DropoutRow row = dropout_row(dropout_site(3, "embedding", 0.37), 8, n);
      std::vector<float> x(n, 2.0f);
      cpu::vector_ops(isa).dropout(static_cast<std::int64_t>(n), row, x.data());
      for (std::size_t c = 0; c < n; ++c)
        EXPECT_EQ(x[c], 2.0f * dropout_factor(row, static_cast<std::uint32_t>(c)))
            << cpu::to_string(isa) << " column " << c;
    }
}

class DropoutInStages : public testing::TestWithParam<TinyModel> {
 protected:
  TestBatch batch(int microbatch_size = 2) const {
    TestBatch b(GetParam().options, {microbatch_size, 9});
    for (int i = 0; i < microbatch_size; ++i) b.samples.push_back(1000 + i);
    return b;
  }
  Trained train(const TestBatch& b, const StageSettings& settings) const {
    const ModelOptions& options = GetParam().options;
    return train_once(*make_stage(options, whole_model(options), b.shape, 1, settings), b);
  }
};

TEST_P(DropoutInStages, RecomputationThreadsReplayAndKernelsGiveTheSameBits) {
  const Trained expected = train(batch(), with_dropout());
  EXPECT_EQ(train(batch(), with_dropout()).gradient, expected.gradient);
  EXPECT_EQ(train(batch(), with_dropout(Recompute::kFull)).gradient, expected.gradient);
  EXPECT_EQ(train(batch(), with_dropout(Recompute::kNone, 3)).gradient, expected.gradient);
  if (cpu::best_isa() == cpu::Isa::kAvx512) {
    StageSettings narrow = with_dropout();
    narrow.isa = cpu::Isa::kAvx2;
    EXPECT_EQ(train(batch(), narrow).gradient, expected.gradient);
  }
  EXPECT_NE(train(batch(), {}).loss.sum, expected.loss.sum);
  TestBatch other = batch();
  other.samples[1] = 77;
  const Trained changed = train(other, with_dropout());
  EXPECT_EQ(changed.sample_losses[0], expected.sample_losses[0]);
  EXPECT_NE(changed.sample_losses[1], expected.sample_losses[1]);
}

TEST_P(DropoutInStages, StagesAndMicrobatchesKeepTheMasks) {
  const ModelOptions& options = GetParam().options;
  const TestBatch b = batch();
  const Trained expected = train(b, with_dropout());
  const auto first = make_stage(options, {0, 1, true, false}, b.shape, 1, with_dropout());
  const auto last = make_stage(options, {1, 2, false, true}, b.shape, 1, with_dropout());
  std::vector<float> boundary(first->boundary_size());
  std::vector<float> boundary_grad(first->boundary_size());
  std::vector<float> gradient(last->gradient_size());
  first->forward(0, b.inputs(), {}, boundary);
  last->forward(0, b.inputs(), boundary, {});
  last->backward(0, {}, boundary_grad, gradient);
  EXPECT_EQ(last->loss(0).sum, expected.loss.sum);

  TestBatch second = batch(1);
  second.samples[0] = 1001;
  std::copy_n(b.tokens.begin() + 9, 9, second.tokens.begin());
  std::copy_n(b.targets.begin() + 9, 9, second.targets.begin());
  EXPECT_EQ(train(second, with_dropout()).sample_losses[0], expected.sample_losses[1]);
}

TEST_P(DropoutInStages, EvaluationDropsNothing) {
  const ModelOptions& options = GetParam().options;
  const TestBatch b = batch();
  const auto dropping = make_stage(options, whole_model(options), b.shape, 1, with_dropout());
  const auto plain = make_stage(options, whole_model(options), b.shape);
  EXPECT_EQ(dropping->evaluate({b.tokens, b.targets}, {}, {}).sum,
            plain->evaluate({b.tokens, b.targets}, {}, {}).sum);
}

INSTANTIATE_TEST_SUITE_P(Models, DropoutInStages, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.name; });

TEST(DropoutRates, OutsideTheirRangeAreRefused) {
  StageSettings settings;
  settings.dropout = {1.0, -0.1, 0};
  const auto stage = Stage::create(tiny_gpt2(), whole_model(tiny_gpt2()), {1, 4}, 1, settings);
  ASSERT_FALSE(stage);
  EXPECT_NE(stage.error().message.find("dropout embedding is 1"), std::string::npos);
  EXPECT_NE(stage.error().message.find("dropout attention is -0.1"), std::string::npos);
}

}  // namespace
}  // namespace tenax::compute
