#include "compute/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace tenax::compute {
namespace {

std::int64_t count(const ModelOptions& options) {
  std::int64_t n = 0;
  for (const ParameterSpec& spec : model_parameters(options)) n += spec.num_elements();
  return n;
}

TEST(ModelParameters, CountsEqualThePublishedSizes) {
  ModelOptions gpt2;
  gpt2.vocabulary_size = 50257;
  gpt2.max_sequence_length = 1024;
  gpt2.width = 768;
  gpt2.num_layers = 12;
  gpt2.num_heads = 12;
  EXPECT_EQ(count(gpt2), 124439808);  // the size of the published checkpoint "gpt2"

  ModelOptions llama;
  llama.vocabulary_size = 32000;
  llama.max_sequence_length = 2048;
  llama.width = 4096;
  llama.num_layers = 32;
  llama.num_heads = 32;
  llama.ffn_width = 11008;
  llama.norm = NormKind::kRmsNorm;
  llama.positions = PositionKind::kRope;
  llama.activation = ActivationKind::kSwiglu;
  llama.biases = false;
  llama.tied_output = false;
  EXPECT_EQ(count(llama), 6738415616);  // LLaMA 7B
}

TEST(ModelParameters, NamesAreUniqueAndOnlyMatricesDecay) {
  ModelOptions options;
  options.qk_norm = true;
  options.embedding_norm = true;
  std::set<std::string> names;
  for (const ParameterSpec& spec : model_parameters(options)) {
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
    EXPECT_EQ(spec.decay, spec.shape.size() == 2) << spec.name;
  }
  for (const char* name :
       {"embedding.token.weight", "embedding.position.weight", "embedding.norm.bias",
        "layers.1.attention.query.weight", "layers.0.attention.query_norm.weight",
        "layers.0.ffn.down.bias", "final_norm.weight"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_FALSE(names.contains("output.weight"));
}

TEST(ModelParameters, StagesTogetherAreTheModelWithTheTiedTensorTwice) {
  const ModelOptions options;
  std::vector<ParameterSpec> joined = stage_parameters(options, 0, 1, true, false);
  for (ParameterSpec& spec : stage_parameters(options, 1, 2, false, true))
    joined.push_back(std::move(spec));
  EXPECT_EQ(std::ranges::count(joined, kTokenEmbedding, &ParameterSpec::name), 2);
  const auto second = std::find_if(joined.begin() + 1, joined.end(), [](const ParameterSpec& s) {
    return s.name == kTokenEmbedding;
  });
  joined.erase(second);
  EXPECT_EQ(joined, model_parameters(options));
}

TEST(InitialValues, AnyPartEqualsThatPartOfTheWhole) {
  const ParameterSpec spec{
      "layers.0.ffn.up.weight", {40, 25}, {InitRule::Kind::kNormal, 0.02}, true};
  std::vector<float> whole(1000), part(300);
  initial_values(spec, 7, 0, whole);
  initial_values(spec, 7, 650, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 650));
  initial_values(spec, 8, 650, part);
  EXPECT_FALSE(std::equal(part.begin(), part.end(), whole.begin() + 650));
}

TEST(InitialValues, HaveTheAskedForSpread) {
  const ParameterSpec spec{"w", {200, 500}, {InitRule::Kind::kNormal, 0.02}, true};
  std::vector<float> values(100000);
  initial_values(spec, 1, 0, values);
  double sum = 0, squares = 0;
  for (const float v : values) {
    sum += v;
    squares += static_cast<double>(v) * v;
  }
  // Standard errors: 0.02 / sqrt(n) = 6.3e-5 of the mean, 0.02 / sqrt(2 n) = 4.5e-5 of the
  // deviation; five of them.
  EXPECT_NEAR(sum / 1e5, 0, 3.2e-4);
  EXPECT_NEAR(std::sqrt(squares / 1e5), 0.02, 2.3e-4);
}

TEST(ModelOptions, ResidualProjectionsStartSmaller) {
  ModelOptions options;
  options.num_layers = 8;
  for (const ParameterSpec& spec : model_parameters(options)) {
    if (spec.shape.size() != 2) continue;
    const bool residual =
        spec.name.ends_with("attention.output.weight") || spec.name.ends_with("ffn.down.weight");
    EXPECT_DOUBLE_EQ(spec.init.std, residual ? 0.02 / 4 : 0.02) << spec.name;
  }
}

TEST(ModelOptions, AllProblemsAreReportedTogether) {
  ModelOptions options;
  EXPECT_TRUE(problems(options).empty());
  options.num_heads = 6;
  options.num_kv_heads = 4;
  options.head_dim = 7;
  options.positions = PositionKind::kRope;
  options.padded_vocabulary_size = 100;
  options.norm_epsilon = 0;
  options.parallel_block = true;
  options.norm_placement = NormPlacement::kPost;
  EXPECT_EQ(problems(options).size(), 5u);
  options = {};
  options.num_layers = 0;
  options.width = -4;
  EXPECT_GE(problems(options).size(), 2u);
}

}  // namespace
}  // namespace tenax::compute
