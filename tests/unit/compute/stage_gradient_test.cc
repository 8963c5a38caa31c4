// The engine's loss and gradients against central differences of the reference decoder in double,
// for each kind of model and every single parameter.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/unit/compute/reference_decoder.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

using Reference = ReferenceDecoder<double>;

Reference::Tensors test_tensors(const ModelOptions& options) {
  Reference::Tensors tensors;
  for (const ParameterSpec& spec : model_parameters(options)) {
    std::vector<double>& values = tensors[spec.name];
    for (std::int64_t i = 0; i < spec.num_elements(); ++i)
      values.push_back(static_cast<double>(test_value(spec, i)));
  }
  return tensors;
}

std::vector<std::int32_t> sample(const std::vector<std::int32_t>& all, const BatchShape& shape,
                                 int b) {
  const auto begin = all.begin() + b * shape.sequence_length;
  return {begin, begin + shape.sequence_length};
}

double total_loss(const Reference& reference, const Reference::Tensors& tensors,
                  const TestBatch& batch) {
  double sum = 0;
  for (int b = 0; b < batch.shape.microbatch_size; ++b) {
    const Reference::Loss loss = reference.loss(tensors, sample(batch.tokens, batch.shape, b),
                                                sample(batch.targets, batch.shape, b));
    sum += loss.cross_entropy + loss.z_term;
  }
  return sum;
}

class StageGradient : public testing::TestWithParam<TinyModel> {};

TEST_P(StageGradient, LossEqualsTheReference) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {3, 7});
  const auto stage = make_stage(options, whole_model(options), batch.shape);
  const Trained trained = train_once(*stage, batch);
  const Reference reference(options);
  const Reference::Tensors tensors = test_tensors(options);
  double sum = 0;
  double z_sum = 0;
  for (int b = 0; b < 3; ++b) {
    const Reference::Loss loss = reference.loss(tensors, sample(batch.tokens, batch.shape, b),
                                                sample(batch.targets, batch.shape, b));
    // 7 targets of about 3 nats, each with a few dozen roundings of 6e-8.
    EXPECT_NEAR(trained.sample_losses[static_cast<std::size_t>(b)], loss.cross_entropy, 3e-5);
    sum += loss.cross_entropy;
    z_sum += loss.z_term;
  }
  EXPECT_NEAR(trained.loss.sum, sum, 1e-4);
  EXPECT_NEAR(trained.loss.z_sum, z_sum, 1e-5);
  EXPECT_EQ(trained.loss.targets,
            std::ranges::count_if(batch.targets, [](std::int32_t t) { return t >= 0; }));
  const LossSum evaluated = stage->evaluate({batch.tokens, batch.targets}, {}, {});
  EXPECT_EQ(evaluated.sum, trained.loss.sum);
  EXPECT_EQ(evaluated.targets, trained.loss.targets);
}

TEST_P(StageGradient, EveryElementEqualsCentralDifferences) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 5});
  const auto stage = make_stage(options, whole_model(options), batch.shape);
  const Trained trained = train_once(*stage, batch);
  const Reference reference(options);
  Reference::Tensors tensors = test_tensors(options);
  constexpr double kStep = 1e-5;
  for (const StageParameter& p : stage->parameters()) {
    std::vector<double>& values = tensors.at(p.spec.name);
    std::vector<double> expected(values.size());
    double largest = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double value = values[i];
      values[i] = value + kStep;
      const double above = total_loss(reference, tensors, batch);
      values[i] = value - kStep;
      const double below = total_loss(reference, tensors, batch);
      values[i] = value;
      expected[i] = (above - below) / (2 * kStep);
      largest = std::max(largest, std::abs(expected[i]));
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      double actual = 0;
      for (const GradientPart& part : p.gradients)
        actual += static_cast<double>(trained.gradient[static_cast<std::size_t>(part.offset) + i]);
      // fp32: a hundred roundings of 6e-8 on terms as large as the tensor's largest gradient; the
      // differences of the reference are good to 1e-8.
      ASSERT_NEAR(actual, expected[i], 1e-5 * (1 + largest)) << p.spec.name << " element " << i;
    }
  }
}

TEST_P(StageGradient, DirectionalDerivativesHoldForLongSequences) {
  // 690 tokens: three blocks of queries a head, and a chunk of logits that ends inside a sample.
  ModelOptions options = GetParam().options;
  options.max_sequence_length = 230;
  const TestBatch batch(options, {3, 230});
  const auto stage = make_stage(options, whole_model(options), batch.shape);
  const Trained trained = train_once(*stage, batch);
  const Reference reference(options);
  const Reference::Tensors tensors = test_tensors(options);
  EXPECT_NEAR(trained.loss.sum + trained.loss.z_sum, total_loss(reference, tensors, batch),
              1e-5 * trained.loss.sum);
  for (std::uint64_t direction = 0; direction < 2; ++direction) {
    Reference::Tensors above = tensors;
    Reference::Tensors below = tensors;
    constexpr double kStep = 1e-6;
    double actual = 0;
    double squares = 0;
    for (const StageParameter& p : stage->parameters()) {
      const CounterRng rng(direction, hash64(p.spec.name));
      for (std::size_t i = 0; i < static_cast<std::size_t>(p.size); ++i) {
        const auto d = static_cast<double>(rng.normal(i));
        above.at(p.spec.name)[i] += kStep * d;
        below.at(p.spec.name)[i] -= kStep * d;
        double g = 0;
        for (const GradientPart& part : p.gradients)
          g += static_cast<double>(trained.gradient[static_cast<std::size_t>(part.offset) + i]);
        actual += g * d;
        squares += g * g;
      }
    }
    const double expected =
        (total_loss(reference, above, batch) - total_loss(reference, below, batch)) / (2 * kStep);
    // The derivative along a normal direction has the gradient's norm as its standard deviation.
    EXPECT_NEAR(actual, expected, 2e-5 * std::sqrt(squares));
  }
}

TEST_P(StageGradient, NextTokenLogitsEqualTheReference) {
  const ModelOptions& options = GetParam().options;
  const auto stage = make_stage(options, whole_model(options), {2, 7}, 0);
  const std::vector<std::int32_t> tokens = {3, 1, 4, 1, 5};
  std::vector<float> logits(static_cast<std::size_t>(options.vocabulary_size));
  stage->next_token_logits(tokens, logits);
  const auto expected = Reference(options).logits(test_tensors(options), tokens).back();
  for (std::size_t v = 0; v < logits.size(); ++v) EXPECT_NEAR(logits[v], expected[v], 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Models, StageGradient, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.name; });

}  // namespace
}  // namespace tenax::compute
