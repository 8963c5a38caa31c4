// What a stage computes must not depend on how the model is cut, which slot is used, what is
// recomputed or what ran before.
#include "compute/stage_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>

#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

std::span<const float> part(std::span<const float> gradient, const StageParameter& p,
                            std::size_t index = 0) {
  return gradient.subspan(static_cast<std::size_t>(p.gradients.at(index).offset),
                          static_cast<std::size_t>(p.size));
}

bool equal_bits(std::span<const float> x, std::span<const float> y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size_bytes()) == 0;
}

/// Gradients of a chain of stages by tensor name; the tied embedding's parts as "input" and
/// "output" of its name.
using NamedGradients = std::map<std::string, std::vector<float>>;

void collect(const Stage& stage, std::span<const float> gradient, NamedGradients& into) {
  for (const StageParameter& p : stage.parameters())
    for (std::size_t i = 0; i < p.gradients.size(); ++i) {
      const auto values = part(gradient, p, i);
      const std::string suffix = p.gradients[i].kind == GradientPartKind::kWhole ? ""
                                 : p.gradients[i].kind == GradientPartKind::kEmbeddingInput
                                     ? " input"
                                     : " output";
      into[p.spec.name + suffix].assign(values.begin(), values.end());
    }
}

class StageSplit : public testing::TestWithParam<TinyModel> {};

TEST_P(StageSplit, TwoStagesGiveTheBitsOfOne) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 9});
  const auto whole = make_stage(options, whole_model(options), batch.shape);
  const Trained expected = train_once(*whole, batch);
  NamedGradients expected_gradients;
  collect(*whole, expected.gradient, expected_gradients);

  const auto first = make_stage(options, {0, 1, true, false}, batch.shape);
  const auto last = make_stage(options, {1, 2, false, true}, batch.shape);
  std::vector<float> boundary(first->boundary_size());
  std::vector<float> boundary_grad(first->boundary_size());
  std::vector<float> first_gradient(first->gradient_size());
  std::vector<float> last_gradient(last->gradient_size());
  first->forward(0, {batch.tokens, {}}, {}, boundary);
  last->forward(0, {{}, batch.targets}, boundary, {});
  last->backward(0, {}, boundary_grad, last_gradient);
  first->backward(0, boundary_grad, {}, first_gradient);

  EXPECT_EQ(last->loss(0).sum, expected.loss.sum);
  EXPECT_EQ(last->loss(0).z_sum, expected.loss.z_sum);
  EXPECT_EQ(last->loss(0).targets, expected.loss.targets);
  NamedGradients gradients;
  collect(*first, first_gradient, gradients);
  collect(*last, last_gradient, gradients);
  ASSERT_EQ(gradients.size(), expected_gradients.size());
  for (const auto& [name, values] : expected_gradients)
    EXPECT_TRUE(equal_bits(gradients[name], values)) << name;

  std::vector<float> evaluated(first->boundary_size());
  first->evaluate({batch.tokens, {}}, {}, evaluated);
  EXPECT_TRUE(equal_bits(evaluated, boundary));
  EXPECT_EQ(last->evaluate({{}, batch.targets}, boundary, {}).sum, expected.loss.sum);
}

TEST_P(StageSplit, FullRecomputationGivesTheSameBits) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 9});
  const auto kept = make_stage(options, whole_model(options), batch.shape);
  const auto recomputed = make_stage(options, whole_model(options), batch.shape, 1,
                                     {cpu::best_isa(), Recompute::kFull});
  const Trained x = train_once(*kept, batch);
  const Trained y = train_once(*recomputed, batch);
  EXPECT_EQ(x.loss.sum, y.loss.sum);
  EXPECT_TRUE(equal_bits(x.gradient, y.gradient));
  EXPECT_LT(recomputed->memory().slot, kept->memory().slot);
}

TEST_P(StageSplit, SelectiveRecomputationGivesTheSameBitsInLessMemory) {
  const ModelOptions& options = GetParam().options;
  const TestBatch a(options, {2, 9}, 1);
  const TestBatch b(options, {2, 9}, 2);
  const auto kept = make_stage(options, whole_model(options), a.shape, 2);
  const auto selective = make_stage(options, whole_model(options), a.shape, 2,
                                    {cpu::best_isa(), Recompute::kSelective});
  std::vector<std::vector<float>> gradients;
  for (Stage* stage : {kept.get(), selective.get()}) {
    stage->forward(0, a.inputs(), {}, {});
    stage->forward(1, b.inputs(), {}, {});
    stage->evaluate(b.inputs(), {}, {});
    for (const int slot : {0, 1}) {
      gradients.emplace_back(stage->gradient_size());
      stage->backward(slot, {}, {}, gradients.back());
    }
  }
  EXPECT_TRUE(equal_bits(gradients[0], gradients[2]));
  EXPECT_TRUE(equal_bits(gradients[1], gradients[3]));
  EXPECT_LT(selective->memory().slot, kept->memory().slot);
}

TEST_P(StageSplit, SlotsKeepMicrobatchesApart) {
  const ModelOptions& options = GetParam().options;
  const TestBatch a(options, {2, 9}, 1);
  const TestBatch b(options, {2, 9}, 2);
  const auto stage = make_stage(options, whole_model(options), a.shape, 2);
  const Trained a_alone = train_once(*stage, a, 1);
  const Trained b_alone = train_once(*stage, b, 0);
  std::vector<float> a_gradient(stage->gradient_size());
  std::vector<float> b_gradient(stage->gradient_size());
  stage->forward(0, {a.tokens, a.targets}, {}, {});
  stage->forward(1, {b.tokens, b.targets}, {}, {});
  stage->evaluate({b.tokens, a.targets}, {}, {});
  stage->backward(0, {}, {}, a_gradient);
  stage->backward(1, {}, {}, b_gradient);
  EXPECT_EQ(stage->loss(0).sum, a_alone.loss.sum);
  EXPECT_EQ(stage->loss(1).sum, b_alone.loss.sum);
  EXPECT_TRUE(equal_bits(a_gradient, a_alone.gradient));
  EXPECT_TRUE(equal_bits(b_gradient, b_alone.gradient));
}

TEST_P(StageSplit, Avx2AndAvx512GiveEqualBits) {
  if (cpu::best_isa() != cpu::Isa::kAvx512) GTEST_SKIP() << "this processor has no AVX-512";
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 9});
  const auto narrow = make_stage(options, whole_model(options), batch.shape, 1, {cpu::Isa::kAvx2});
  const auto wide = make_stage(options, whole_model(options), batch.shape, 1, {cpu::Isa::kAvx512});
  const Trained x = train_once(*narrow, batch);
  const Trained y = train_once(*wide, batch);
  EXPECT_EQ(x.loss.sum, y.loss.sum);
  EXPECT_TRUE(equal_bits(x.gradient, y.gradient));
}

TEST_P(StageSplit, PortableKernelsAgreeWithinRounding) {
  const ModelOptions& options = GetParam().options;
  const TestBatch batch(options, {2, 9});
  const auto portable =
      make_stage(options, whole_model(options), batch.shape, 1, {cpu::Isa::kPortable});
  const auto best = make_stage(options, whole_model(options), batch.shape);
  const Trained x = train_once(*portable, batch);
  const Trained y = train_once(*best, batch);
  // The same hundred roundings as against the reference.
  EXPECT_NEAR(x.loss.sum, y.loss.sum, 1e-4);
  float largest = 0;
  for (const float g : y.gradient) largest = std::max(largest, std::abs(g));
  for (std::size_t i = 0; i < x.gradient.size(); ++i)
    ASSERT_NEAR(x.gradient[i], y.gradient[i], 1e-5f * (1 + largest));
}

INSTANTIATE_TEST_SUITE_P(Models, StageSplit, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.name; });

TEST(StageLayout, PutsEveryTensorOnItsOwnCacheLines) {
  for (const TinyModel& model : tiny_models()) {
    const StageLayout layout = lay_out_stage(resolved(model.options), whole_model(model.options));
    std::int64_t end = 0;
    for (const StageParameter& p : layout.parameters) {
      EXPECT_EQ(p.offset % 16, 0) << p.spec.name;
      EXPECT_GE(p.offset, end) << p.spec.name;
      EXPECT_EQ(p.size, p.spec.num_elements());
      EXPECT_EQ(p.gradients.front().offset, p.offset);
      end = p.offset + p.size;
    }
    EXPECT_GE(layout.values_size, end);
    EXPECT_EQ(layout.gradient_size > layout.values_size, model.options.tied_output) << model.name;
  }
}

TEST(StageLayout, NamesThePartsOfTheTiedEmbedding) {
  const ModelOptions o = resolved(tiny_gpt2());
  const auto kinds = [](const StageLayout& layout) {
    std::vector<GradientPartKind> result;
    for (const GradientPart& g : layout.parameters.front().gradients) result.push_back(g.kind);
    return result;
  };
  using Kind = GradientPartKind;
  EXPECT_EQ(kinds(lay_out_stage(o, {0, 2, true, true})),
            (std::vector{Kind::kEmbeddingInput, Kind::kEmbeddingOutput}));
  EXPECT_EQ(kinds(lay_out_stage(o, {0, 1, true, false})), std::vector{Kind::kEmbeddingInput});
  EXPECT_EQ(kinds(lay_out_stage(o, {1, 2, false, true})), std::vector{Kind::kEmbeddingOutput});
  ModelOptions untied = o;
  untied.tied_output = false;
  EXPECT_EQ(kinds(lay_out_stage(untied, {0, 2, true, true})), std::vector{Kind::kWhole});
}

TEST(Stage, BackwardLeavesNothingOfWhatTheGradientWas) {
  for (const TinyModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    for (const StageSpec& spec :
         {StageSpec{0, 1, true, false}, StageSpec{1, 2, false, true}, whole_model(model.options)}) {
      const TestBatch batch(model.options, {2, 9});
      const auto stage = make_stage(model.options, spec, batch.shape);
      const std::vector<float> stream(spec.has_embedding ? 0 : stage->boundary_size(), 0.5f);
      std::vector<float> out(spec.has_head ? 0 : stage->boundary_size());
      const auto gradient_over = [&](float before) {
        std::vector<float> gradient(stage->gradient_size(), before);
        const std::vector<float> output_grad(out.size(), 0.25f);
        std::vector<float> input_grad(stream.size());
        stage->forward(0, batch.inputs(), stream, out);
        stage->backward(0, output_grad, input_grad, gradient);
        return gradient;
      };
      EXPECT_EQ(gradient_over(std::numeric_limits<float>::quiet_NaN()), gradient_over(0));
    }
  }
}

TEST(Stage, MaskedTargetsAddNothing) {
  const ModelOptions options = tiny_llama();
  TestBatch batch(options, {2, 9});
  const auto stage = make_stage(options, whole_model(options), batch.shape);
  // Sample 1 masked as a whole equals sample 0 trained alone.
  std::fill(batch.targets.begin() + 9, batch.targets.end(), -1);
  const Trained masked = train_once(*stage, batch);
  EXPECT_EQ(masked.sample_losses[1], 0);
  EXPECT_EQ(masked.loss.sum, masked.sample_losses[0]);
  batch.tokens.resize(9);
  batch.targets.resize(9);
  const auto alone = make_stage(options, whole_model(options), {1, 9});
  const Trained trained = train_once(*alone, batch);
  EXPECT_EQ(trained.loss.sum, masked.loss.sum);
  EXPECT_EQ(trained.loss.targets, masked.loss.targets);
  for (std::size_t i = 0; i < trained.gradient.size(); ++i)
    ASSERT_EQ(trained.gradient[i], masked.gradient[i]);  // 0 equals -0

  std::ranges::fill(batch.targets, -1);
  const Trained nothing = train_once(*alone, batch);
  EXPECT_EQ(nothing.loss.sum, 0);
  EXPECT_EQ(nothing.loss.targets, 0);
  for (const float g : nothing.gradient) ASSERT_EQ(g, 0);
}

TEST(Stage, ABrokenWeightShowsInLossAndGradient) {
  for (const TinyModel& model : tiny_models()) {
    const TestBatch batch(model.options, {1, 9});
    const auto stage = make_stage(model.options, whole_model(model.options), batch.shape);
    const StageParameter& last = stage->parameters()[stage->parameters().size() / 2];
    stage->values()[static_cast<std::size_t>(last.offset)] = NAN;
    const Trained trained = train_once(*stage, batch);
    EXPECT_FALSE(std::isfinite(trained.loss.sum)) << model.name << ", " << last.spec.name;
    EXPECT_FALSE(std::ranges::all_of(trained.gradient, [](float g) { return std::isfinite(g); }))
        << model.name;
  }
}

TEST(Stage, LongSequencesCrossTheBlocksOfQueriesAndTokens) {
  // 300 tokens: four blocks of query rows, three chunks of logits; split into stages as a check on
  // the bits.
  ModelOptions options = tiny_llama();
  options.max_sequence_length = 300;
  const TestBatch batch(options, {2, 300});
  const auto whole = make_stage(options, whole_model(options), batch.shape);
  const Trained trained = train_once(*whole, batch);
  // Causality: the first 9 tokens of sample 0 see nothing of the rest.
  TestBatch start = batch;
  start.shape = {1, 9};
  start.tokens.resize(9);
  start.targets.resize(9);
  TestBatch rest_masked = batch;
  std::fill(rest_masked.targets.begin() + 9, rest_masked.targets.end(), -1);
  const auto shorter = make_stage(options, whole_model(options), start.shape);
  EXPECT_EQ(train_once(*whole, rest_masked).loss.sum, train_once(*shorter, start).loss.sum);
  EXPECT_GT(trained.loss.sum, 0);
}

TEST(Stage, RefusesWithEveryReasonAtOnce) {
  ModelOptions options = tiny_gpt2();
  options.width = 10;
  options.z_loss = -1;
  const auto stage = Stage::create(options, {0, 3, true, true}, {0, 99}, 1);
  ASSERT_FALSE(stage.has_value());
  EXPECT_EQ(stage.error().code, ErrorCode::kInvalidArgument);
  for (const char* piece : {"width 10 is not a multiple of num_heads 3", "z_loss is -1",
                            "layers [0, 3)", "microbatch_size is 0", "sequence_length is 99"})
    EXPECT_NE(stage.error().message.find(piece), std::string::npos) << stage.error().message;
}

TEST(Stage, WhatCannotFitIsRefusedBeforeAnythingIsAllocated) {
  ModelOptions options = tiny_gpt2();
  options.width = 12 << 16;
  options.ffn_width = 1 << 20;
  auto stage = Stage::create(options, whole_model(options), {1, 4}, 1);
  ASSERT_FALSE(stage.has_value());
  EXPECT_EQ(stage.error().code, ErrorCode::kNoSpace) << stage.error().message;
  options.width = 3 << 24;
  options.num_layers = 1 << 20;
  stage = Stage::create(options, whole_model(options), {1, 4}, 1);
  ASSERT_FALSE(stage.has_value());
  EXPECT_EQ(stage.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(stage.error().message.find("parameters, more than can be addressed"), std::string::npos)
      << stage.error().message;
  options = tiny_gpt2();
  options.max_sequence_length = 1 << 26;
  stage = Stage::create(options, whole_model(options), {1 << 30, 1 << 26}, 1);
  ASSERT_FALSE(stage.has_value());
  EXPECT_EQ(stage.error().code, ErrorCode::kInvalidArgument) << stage.error().message;
  // More slots than any machine has memory for.
  stage = Stage::create(tiny_gpt2(), whole_model(tiny_gpt2()), {64, 9}, 1 << 30);
  ASSERT_FALSE(stage.has_value());
  EXPECT_EQ(stage.error().code, ErrorCode::kNoSpace) << stage.error().message;
}

TEST(Stage, InitialValuesDoNotDependOnTheSplit) {
  const ModelOptions options = tiny_gpt2();
  const BatchShape shape{1, 4};
  const auto whole = make_stage(options, whole_model(options), shape);
  const auto last = make_stage(options, {1, 2, false, true}, shape);
  whole->initialise(42);
  last->initialise(42);
  for (const StageParameter& p : last->parameters()) {
    const auto twin = std::ranges::find(whole->parameters(), p.spec.name,
                                        [](const StageParameter& q) { return q.spec.name; });
    ASSERT_NE(twin, whole->parameters().end()) << p.spec.name;
    EXPECT_TRUE(equal_bits(last->values().subspan(static_cast<std::size_t>(p.offset),
                                                  static_cast<std::size_t>(p.size)),
                           whole->values().subspan(static_cast<std::size_t>(twin->offset),
                                                   static_cast<std::size_t>(p.size))))
        << p.spec.name;
  }
}

}  // namespace
}  // namespace tenax::compute
