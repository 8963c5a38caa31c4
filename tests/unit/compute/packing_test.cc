// Several documents in one sample: each must give what it gives alone. And targets that do not
// count.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

/// Samples made of documents of the given lengths, which add up to T for each sample.
struct PackedBatch {
  TestBatch batch;
  std::vector<std::size_t> lengths;

  PackedBatch(const ModelOptions& options, BatchShape shape, std::vector<std::size_t> documents)
      : batch(options, shape), lengths(std::move(documents)) {
    for (const std::size_t length : lengths)
      for (std::size_t i = 0; i < length; ++i)
        batch.positions.push_back(static_cast<std::int32_t>(i));
    if (batch.positions.size() != batch.tokens.size()) throw std::runtime_error("bad lengths");
  }
};

class Packing : public testing::TestWithParam<TinyModel> {
 protected:
  /// Each document alone, in a stage as long as it is: loss and gradient added up in double.
  static void expect_equal_to_documents_alone(const ModelOptions& options,
                                              const PackedBatch& packed) {
    const auto stage = make_stage(options, whole_model(options), packed.batch.shape);
    const Trained trained = train_once(*stage, packed.batch);
    LossSum loss;
    std::vector<double> gradient(trained.gradient.size());
    std::vector<double> absolute(trained.gradient.size());
    std::size_t begin = 0;
    for (const std::size_t length : packed.lengths) {
      TestBatch alone(options, {1, static_cast<int>(length)});
      std::copy_n(packed.batch.tokens.begin() + static_cast<std::ptrdiff_t>(begin), length,
                  alone.tokens.begin());
      std::copy_n(packed.batch.targets.begin() + static_cast<std::ptrdiff_t>(begin), length,
                  alone.targets.begin());
      const auto short_stage = make_stage(options, whole_model(options), alone.shape);
      const Trained part = train_once(*short_stage, alone);
      loss.sum += part.loss.sum;
      loss.z_sum += part.loss.z_sum;
      loss.targets += part.loss.targets;
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        gradient[i] += static_cast<double>(part.gradient[i]);
        absolute[i] = std::max(absolute[i], std::abs(static_cast<double>(part.gradient[i])));
      }
      begin += length;
    }
    // Products of a whole sample and of a document alone are cut at other places: some hundred
    // roundings of 6e-8 of the largest term.
    EXPECT_NEAR(trained.loss.sum, loss.sum, 1e-6 * loss.sum);
    EXPECT_NEAR(trained.loss.z_sum, loss.z_sum, 1e-6 * (1 + loss.z_sum));
    EXPECT_EQ(trained.loss.targets, loss.targets);
    for (const StageParameter& p : stage->parameters())
      for (const GradientPart& part : p.gradients) {
        const auto at = static_cast<std::size_t>(part.offset);
        const auto n = static_cast<std::size_t>(p.size);
        const double largest =
            *std::max_element(absolute.begin() + static_cast<std::ptrdiff_t>(at),
                              absolute.begin() + static_cast<std::ptrdiff_t>(at + n));
        for (std::size_t i = at; i < at + n; ++i)
          ASSERT_NEAR(trained.gradient[i], gradient[i], 1e-5 * (1 + largest))
              << p.spec.name << " element " << i - at;
      }
    const LossSum evaluated = stage->evaluate(packed.batch.inputs(), {}, {});
    EXPECT_EQ(evaluated.sum, trained.loss.sum);
  }
};

TEST_P(Packing, DocumentsOfASampleGiveWhatEachGivesAlone) {
  expect_equal_to_documents_alone(GetParam().options,
                                  {GetParam().options, {2, 9}, {4, 1, 4, 1, 1, 7}});
}

TEST_P(Packing, DocumentsThatCrossBlocksOfQueriesGiveWhatEachGivesAlone) {
  ModelOptions options = GetParam().options;
  options.max_sequence_length = 230;
  expect_equal_to_documents_alone(options, {options, {1, 230}, {90, 10, 125, 5}});
}

TEST_P(Packing, PositionsThatDoNotResetChangeNoBit) {
  const ModelOptions& options = GetParam().options;
  PackedBatch packed(options, {2, 9}, {9, 9});
  const auto stage = make_stage(options, whole_model(options), packed.batch.shape);
  const Trained with = train_once(*stage, packed.batch);
  packed.batch.positions.clear();
  const Trained without = train_once(*stage, packed.batch);
  EXPECT_EQ(with.loss.sum, without.loss.sum);
  EXPECT_EQ(with.gradient, without.gradient);
}

TEST_P(Packing, RecomputationAndStagesKeepTheDocuments) {
  const ModelOptions& options = GetParam().options;
  const PackedBatch packed(options, {2, 9}, {4, 1, 4, 1, 1, 7});
  const TestBatch& batch = packed.batch;
  const auto whole = make_stage(options, whole_model(options), batch.shape);
  const Trained expected = train_once(*whole, batch);
  const auto recomputed = make_stage(options, whole_model(options), batch.shape, 1,
                                     {cpu::best_isa(), Recompute::kFull});
  EXPECT_EQ(train_once(*recomputed, batch).gradient, expected.gradient);

  const auto first = make_stage(options, {0, 1, true, false}, batch.shape);
  const auto last = make_stage(options, {1, 2, false, true}, batch.shape);
  std::vector<float> boundary(first->boundary_size());
  std::vector<float> gradient(last->gradient_size());
  std::vector<float> boundary_grad(first->boundary_size());
  first->forward(0, batch.inputs(), {}, boundary);
  last->forward(0, batch.inputs(), boundary, {});
  last->backward(0, {}, boundary_grad, gradient);
  EXPECT_EQ(last->loss(0).sum, expected.loss.sum);
}

TEST_P(Packing, MaskedTargetsGiveNothingAndTheOthersWhatTheyGiveAlone) {
  const ModelOptions& options = GetParam().options;
  TestBatch batch(options, {2, 9});
  for (std::int32_t& target : batch.targets) target = 3;
  const auto stage = make_stage(options, whole_model(options), batch.shape);
  const Trained all = train_once(*stage, batch);
  EXPECT_EQ(all.loss.targets, 18);

  std::vector<double> sum(all.gradient.size());
  double loss = 0;
  for (std::size_t kept = 0; kept < batch.targets.size(); ++kept) {
    TestBatch one = batch;
    for (std::size_t i = 0; i < one.targets.size(); ++i)
      if (i != kept) one.targets[i] = -1;
    const Trained trained = train_once(*stage, one);
    EXPECT_EQ(trained.loss.targets, 1);
    loss += trained.loss.sum;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(trained.gradient[i]);
  }
  EXPECT_NEAR(loss, all.loss.sum, 1e-6 * loss);
  double norm = 0;
  for (const double g : sum) norm += g * g;
  for (std::size_t i = 0; i < sum.size(); ++i)
    ASSERT_NEAR(all.gradient[i], sum[i], 1e-6 * (1 + std::sqrt(norm))) << "element " << i;

  std::ranges::fill(batch.targets, -1);
  const Trained none = train_once(*stage, batch);
  EXPECT_EQ(none.loss.targets, 0);
  EXPECT_EQ(none.loss.sum, 0.0);
  EXPECT_TRUE(std::ranges::all_of(none.gradient, [](float g) { return g == 0.0f; }));
}

INSTANTIATE_TEST_SUITE_P(Models, Packing, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.name; });

}  // namespace
}  // namespace tenax::compute
