#include "compute/tensor_part.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "compute/cuda_stage_memory.h"
#include "compute/stage.h"

namespace tenax::compute {
namespace {

ModelOptions model(std::int64_t kv_heads) {
  ModelOptions o;
  o.vocabulary_size = 11;
  o.padded_vocabulary_size = 13;
  o.width = 24;
  o.num_layers = 1;
  o.num_heads = 4;
  o.num_kv_heads = kv_heads;
  o.qk_norm = true;
  return o;
}

std::int64_t volume(const Box& box) {
  std::int64_t n = 1;
  for (const std::int64_t extent : box.extent) n *= extent;
  return n;
}

TEST(TensorPart, FirstHoldersTogetherHoldEveryElementOnce) {
  for (const std::int64_t kv_heads : {4, 2, 1}) {
    for (const int tp : {1, 2, 4}) {
      const ModelOptions o = model(kv_heads);
      for (const ParameterSpec& spec : model_parameters(o)) {
        std::vector<int> times(static_cast<std::size_t>(spec.num_elements()));
        const std::int64_t columns = spec.shape.back();
        for (int index = 0; index < tp; ++index) {
          const HeldPart held = held_part(o, spec, {tp, index});
          EXPECT_GE(held.elements, volume(held.box));
          if (!held.first) continue;
          const bool matrix = spec.shape.size() > 1;
          const std::int64_t rows = matrix ? held.box.extent[0] : 1;
          for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t row = matrix ? held.box.offset[0] + r : 0;
            for (std::int64_t c = 0; c < held.box.extent.back(); ++c)
              ++times[static_cast<std::size_t>(row * columns + held.box.offset.back() + c)];
          }
        }
        EXPECT_TRUE(std::ranges::all_of(times, [](int n) { return n == 1; }))
            << spec.name << ", kv_heads " << kv_heads << ", tp " << tp;
      }
    }
  }
}

TEST(TensorPart, RanksAllocateAlikeSoThatOptimizerShardsAreCutAlike) {
  const ModelOptions o = model(2);
  for (const ParameterSpec& spec : model_parameters(o)) {
    for (int index = 1; index < 4; ++index)
      EXPECT_EQ(held_part(o, spec, {4, index}).elements, held_part(o, spec, {4, 0}).elements)
          << spec.name;
  }
}

TEST(TensorPart, AKeyHeadOfSeveralRanksHasItsGradientAddedUpOverThem) {
  const ModelOptions o = model(2);
  const auto specs = model_parameters(o);
  const auto key =
      std::ranges::find(specs, std::string("layers.0.attention.key.weight"), &ParameterSpec::name);
  ASSERT_NE(key, specs.end());
  const HeldPart third = held_part(o, *key, {4, 2});
  EXPECT_EQ(third.box.offset, (std::vector<std::int64_t>{6, 0}));
  EXPECT_EQ(third.first_addend, 2);
  EXPECT_EQ(third.end_addend, 4);
  EXPECT_TRUE(third.first);
  EXPECT_FALSE(held_part(o, *key, {4, 3}).first);
}

TEST(TensorPart, AVocabularyThatDoesNotDivideLeavesTheLastRankWithFewerTokens) {
  EXPECT_EQ(local_options(model(4), {4, 0}).vocabulary_size, 4);
  EXPECT_EQ(local_options(model(4), {4, 2}).vocabulary_size, 3);
  EXPECT_EQ(local_options(model(4), {4, 3}).vocabulary_size, 0);
  EXPECT_EQ(local_options(model(4), {4, 3}).padded_vocabulary_size, 4);
}

TEST(TensorPart, RowsOfTokensAreNearlyEqualAndLeaveNoneOut) {
  for (int tp = 1; tp <= 8; ++tp) {
    for (std::int64_t tokens = 0; tokens <= 20; ++tokens) {
      std::int64_t end = 0;
      std::int64_t most = 0;
      for (int index = 0; index < tp; ++index) {
        const TokenRows rows = token_rows(tokens, {tp, index});
        EXPECT_EQ(rows.begin, end);
        EXPECT_GE(rows.size(), tokens / tp);
        end = rows.end;
        most = std::max(most, rows.size());
      }
      EXPECT_EQ(end, tokens);
      EXPECT_EQ(most, max_token_rows(tokens, {tp, 0}));
    }
  }
}

TEST(TensorPart, GradientsOfNormsAreAddedUpOverAllRanks) {
  ModelOptions o = model(4);
  o.embedding_norm = true;
  o.norm = NormKind::kLayerNorm;
  int num_norms = 0;
  for (const ParameterSpec& spec : model_parameters(o)) {
    if (spec.name.find("norm") == std::string::npos) continue;
    ++num_norms;
    const HeldPart held = held_part(o, spec, {4, 2});
    EXPECT_EQ(held.first_addend, 0) << spec.name;
    EXPECT_EQ(held.end_addend, 4) << spec.name;
    EXPECT_FALSE(held.first) << spec.name;
  }
  EXPECT_EQ(num_norms, 10) << "weights and biases of embedding, attention, ffn and final norm, "
                              "weights of those of queries and keys";
}

TEST(TensorPart, OfTheResidualStreamARankStoresItsRowsAlone) {
  ModelOptions o = model(4);
  o.num_layers = 3;
  o = resolved(o);
  const BatchShape shape{4, 64};
  StageSettings settings;
  settings.recompute = Recompute::kFull;  // a slot has the inputs of layers and head, and tokens
  StageSpec spec = whole_model(o);
  for (const int tp : {1, 2, 4}) {
    spec.tensor = {tp, tp - 1};
    const std::int64_t stream = 4 * 64 / tp * o.width * (o.num_layers + 1) * 4;
    const auto on_cpu = plan_stage_memory(o, spec, shape, settings);
    ASSERT_TRUE(on_cpu);
    EXPECT_EQ(on_cpu->slot, stream + 3 * 4 * 64 * 4);
    EXPECT_EQ(plan_cuda_memory(o, spec, shape, settings).slot, stream);
  }
}

TEST(TensorPart, WhatCannotBeDividedIsNamedAllAtOnce) {
  ModelOptions o = model(4);
  o.ffn_width = 50;
  o.width = 25;
  EXPECT_EQ(tensor_problems(o, 16),
            (std::vector<std::string>{
                "heads 4 is not a multiple of tp 16", "ffn_width 50 is not a multiple of tp 16",
                "width 25 is odd, with tp 16", "the vocabulary has 13 rows, fewer than tp 16"}));
}

}  // namespace
}  // namespace tenax::compute
