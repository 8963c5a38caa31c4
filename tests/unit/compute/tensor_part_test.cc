#include "compute/tensor_part.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

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

TEST(TensorPart, WhatCannotBeDividedIsNamedAllAtOnce) {
  ModelOptions o = model(4);
  o.ffn_width = 50;
  EXPECT_EQ(tensor_problems(o, 16),
            (std::vector<std::string>{"heads 4 is not a multiple of tp 16",
                                      "ffn_width 50 is not a multiple of tp 16",
                                      "the vocabulary has 13 rows, fewer than tp 16"}));
}

}  // namespace
}  // namespace tenax::compute
