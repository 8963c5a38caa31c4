#include "configs/model_card.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "compute/parameters.h"
#include "configs/run_config.h"

namespace tenax::configs {
namespace {

ModelCard card(const std::string& name) {
  const auto result = load_model_card(name);
  EXPECT_TRUE(result) << result.error().message;
  return result ? *result : ModelCard{};
}

double num_parameters(const compute::ModelOptions& options) {
  double sum = 0;
  for (const compute::ParameterSpec& p : compute::model_parameters(options))
    sum += static_cast<double>(p.num_elements());
  return sum;
}

/// A card that has everything; `extra` is added to section [model].
std::string text_of(const std::string& extra = "") {
  const std::filesystem::path path = TENAX_SOURCE_DIR "/configs/models/gpt2-tiny.toml";
  std::ifstream file(path);
  return std::string{std::istreambuf_iterator<char>(file), {}} + extra;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string error_of(const Result<ModelCard>& result) {
  if (result) return "no error";
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  return result.error().message;
}

TEST(ModelCard, EveryFileInTheFolderIsPartOfTheProgram) {
  std::set<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(TENAX_SOURCE_DIR "/configs/models")) {
    files.insert(entry.path().stem().string());
  }
  const std::vector<std::string> names = model_card_names();
  EXPECT_EQ(files, std::set<std::string>(names.begin(), names.end()));
  for (const char* name :
       {"gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1.5b", "gpt3-175b", "opt-125m", "opt-175b",
        "bloom-176b", "palm-8b", "palm-62b", "palm-540b", "mt-nlg-530b", "galactica-120b",
        "jurassic-1-178b", "llama-7b", "llama-13b", "llama-33b", "llama-65b"}) {
    EXPECT_TRUE(files.contains(name)) << name;
  }
}

TEST(ModelCard, EveryCardCanBeBuiltAndSaysWhereEachFigureIsFrom) {
  for (const std::string& name : model_card_names()) {
    SCOPED_TRACE(name);
    const ModelCard c = card(name);
    EXPECT_EQ(compute::problems(c.model), std::vector<std::string>{});
    std::set<std::string> expected{"vocabulary_size", "max_sequence_length"};
    for (const KeyInfo& k : list_keys()) {
      if (k.key.starts_with("model.") && k.key != "model.card") expected.insert(k.key.substr(6));
    }
    if (c.model.positions != compute::PositionKind::kRope) expected.erase("rope_theta");
    std::set<std::string> stated;
    for (const auto& [key, field] : c.fields) stated.insert(key);
    EXPECT_EQ(stated, expected);
    for (const auto& [key, field] : c.fields) {
      EXPECT_NE(field.origin, Origin::kMissing) << key;
      EXPECT_FALSE(field.evidence.empty()) << key;
    }
    // What a card states is what is built: nothing is left to be filled in.
    EXPECT_EQ(compute::resolved(c.model), c.model);
  }
}

TEST(ModelCard, FullSizesHaveThePublishedNumberOfParametersOrSayWhyNot) {
  for (const std::string& name : model_card_names()) {
    const ModelCard c = card(name);
    if (c.tiny.empty()) continue;
    SCOPED_TRACE(name);
    ASSERT_GT(c.published_parameters, 0);
    const double ratio = num_parameters(c.model) / c.published_parameters;
    EXPECT_EQ(std::abs(ratio - 1) > 0.015, !c.parameters_note.empty()) << ratio;
  }
}

// Counts that are known to the last parameter: BLOOM's model card, the released weights of GPT-2
// and LLaMA, and PaLM's by the sum below.
TEST(ModelCard, ExactCountsAreMet) {
  EXPECT_EQ(num_parameters(card("bloom-176b").model), 176247271424.0);
  EXPECT_EQ(num_parameters(card("gpt2-124m").model), 124439808.0);
  EXPECT_EQ(num_parameters(card("gpt2-1.5b").model), 1557611200.0);
  EXPECT_EQ(num_parameters(card("llama-7b").model), 6738415616.0);
  // PaLM: embedding V h; a layer has q and output (h x H D each), one key and one value head
  // (h x D each), three matrices h x F, one norm h; a final norm h.
  const double h = 18432, attention = 48 * 256, f = 4 * h;
  const double layer = 2 * h * attention + 2 * h * 256 + 3 * h * f + h;
  EXPECT_EQ(num_parameters(card("palm-540b").model), 256000 * h + 118 * layer + h);
}

TEST(ModelCard, ATinySiblingHasTheSameArchitecture) {
  for (const std::string& name : model_card_names()) {
    const ModelCard big = card(name);
    if (big.tiny.empty()) continue;
    SCOPED_TRACE(name);
    const ModelCard tiny = card(big.tiny);
    EXPECT_TRUE(tiny.tiny.empty());
    EXPECT_GT(tiny.tiny_loss, 0);
    const compute::ModelOptions &a = big.model, &b = tiny.model;
    EXPECT_EQ(a.norm, b.norm);
    EXPECT_EQ(a.norm_placement, b.norm_placement);
    EXPECT_EQ(a.positions, b.positions);
    EXPECT_EQ(a.activation, b.activation);
    EXPECT_EQ(a.biases, b.biases);
    EXPECT_EQ(a.parallel_block, b.parallel_block);
    EXPECT_EQ(a.embedding_norm, b.embedding_norm);
    EXPECT_EQ(a.tied_output, b.tied_output);
    EXPECT_EQ(a.qk_norm, b.qk_norm);
    EXPECT_EQ(a.scale_residual_init, b.scale_residual_init);
    // Shapes that make an architecture: shared key and value heads, heads wider than the stream,
    // a padded vocabulary, and scales that are on.
    EXPECT_EQ(a.num_kv_heads == a.num_heads, b.num_kv_heads == b.num_heads);
    EXPECT_EQ(a.num_kv_heads == 1, b.num_kv_heads == 1);
    if (a.head_dim * a.num_heads != a.width) {
      EXPECT_NE(b.head_dim * b.num_heads, b.width);
    }
    EXPECT_EQ(a.padded_vocabulary_size > a.vocabulary_size,
              b.padded_vocabulary_size > b.vocabulary_size);
    EXPECT_EQ(a.ffn_width == 4 * a.width, b.ffn_width == 4 * b.width);
    EXPECT_EQ(a.embedding_scale != 1, b.embedding_scale != 1);
    EXPECT_EQ(a.logit_scale != 1, b.logit_scale != 1);
    EXPECT_EQ(a.z_loss, b.z_loss);
    EXPECT_LT(num_parameters(b), 200000);
  }
}

TEST(ModelCard, WhatDiffersFromThePublishedModelIsSaid) {
  EXPECT_NE(card("gpt3-175b").deviation.at(0).find("banded"), std::string::npos);
  EXPECT_NE(card("palm-540b").deviation.at(1).find("Adafactor"), std::string::npos);
}

TEST(ModelCard, LlamaHasNoBiases) {
  for (const char* name : {"llama-7b", "llama-13b", "llama-33b", "llama-65b", "llama-tiny"})
    EXPECT_FALSE(card(name).model.biases) << name;
}

TEST(ModelCard, AllProblemsComeAtOnce) {
  std::string text =
      text_of("parallel_blok = { value = true, origin = \"chosen\", why = \"x\" }\n");
  text = replaced(text, "width = { value = 64, origin = \"chosen\"",
                  "width = { value = -1, origin = \"guessed\"");
  text = replaced(text, "layers = { value = 2, origin = \"chosen\", why",
                  "layers = { value = 2, origin = \"chosen\", sum");
  text = replaced(text, "title = \"GPT-2 tiny\"", "published_parameters = 5");
  text = replaced(text, "heads = { value = 4, origin = \"chosen\"",
                  "heads = { value = 4, note = \"chosen\"");
  text = replaced(
      text, "qk_norm = { value = false, origin = \"derived\", sum = \"as gpt2-124m\" }\n", "");
  const std::string message = error_of(parse_model_card(text, "x", "x.toml"));
  for (const char* part :
       {"model.width.value is -1, must be at least 1", "model.width.origin: expected one of",
        "unknown section 'model.parallel_blok'; did you mean 'model.parallel_block'?",
        "x.toml: model.layers is chosen: why is missing",
        "x.toml: model.layers is chosen: sum does not belong there",
        "unknown key 'model.heads.note'",
        "x.toml: model.heads has no origin: published, derived or chosen",
        "x.toml: model.qk_norm is not stated", "x.toml: card.title is missing",
        "x.toml: card.published_parameters has no card.parameters_source"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << "\n in\n" << message;
  }
  EXPECT_EQ(message.find("model.width has no"), std::string::npos) << message;
}

TEST(ModelCard, ImpossibleShapesAreToldInTheCardsWords) {
  const std::string text = replaced(text_of(), "kv_heads = { value = 4", "kv_heads = { value = 3");
  EXPECT_EQ(error_of(parse_model_card(text, "x", "x.toml")),
            "x.toml: model: heads 4 is not a multiple of kv_heads 3");
}

TEST(ModelCard, RopeNeedsItsTheta) {
  const std::string text = replaced(text_of(), "\"learned\"", "\"rope\"");
  EXPECT_EQ(error_of(parse_model_card(text, "x", "x.toml")),
            "x.toml: model.rope_theta is not stated");
}

TEST(ModelCard, AnUnknownNameGetsTheNearest) {
  const auto result = load_model_card("gpt2-124");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(result.error().message, "there is no model card 'gpt2-124'; did you mean 'gpt2-124m'?");
  const auto file = load_model_card("./gone.toml", "/nonexistent");
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().message,
            "reading model card /nonexistent/./gone.toml: No such file or directory");
}

// ---- in a recipe

constexpr std::string_view kRecipe =
    "data.text = [\"*.txt\"]\n[model]\nlayers = 3\ncard = \"palm-tiny\"\n";

TEST(RunConfigWithCard, TakesTheArchitectureAndLetsTheRecipeOverrideIt) {
  const auto config = parse_run_config(kRecipe, "t", {"model.ffn_width=96"});
  ASSERT_TRUE(config) << config.error().message;
  compute::ModelOptions expected = card("palm-tiny").model;
  expected.num_layers = 3;
  expected.ffn_width = 96;
  expected.vocabulary_size = 300;
  expected.padded_vocabulary_size = 0;
  expected.max_sequence_length = 128;
  EXPECT_EQ(model_options(*config, 300), expected);
}

TEST(RunConfigWithCard, AnOverrideNamesAnotherCard) {
  const auto config = parse_run_config(kRecipe, "t", {"model.card=llama-tiny"});
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model.norm, compute::NormKind::kRmsNorm);
  EXPECT_EQ(config->model.num_layers, 3);
}

TEST(RunConfigWithCard, TheCanonicalTextNeedsNoCard) {
  const auto config = parse_run_config(kRecipe, "t", {});
  ASSERT_TRUE(config);
  const std::string text = canonical_text(*config);
  EXPECT_NE(text.find("model.card = \"\"\n"), std::string::npos);
  EXPECT_NE(text.find("model.parallel_block = true\n"), std::string::npos);
  const auto again = parse_run_config(text, "canonical", {});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->model, config->model);
  EXPECT_EQ(config_digest(*again), config_digest(*config));
}

TEST(RunConfigWithCard, ACardThatIsNotThereIsOneOfTheProblems) {
  const auto config = parse_run_config(
      "data.text = [\"x\"]\nmodel.card = \"palm-tyni\"\ntrain.steps = 0\n", "t", {});
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().message,
            "t:3:15: train.steps is 0, must be at least 1 and at most 1e+12\n"
            "t: model.card: there is no model card 'palm-tyni'; did you mean 'palm-tiny'?");
}

TEST(RunConfigWithCard, APathIsRelativeToTheRecipe) {
  const std::filesystem::path folder = TENAX_SOURCE_DIR "/configs";
  const auto config = parse_run_config(
      "data.text = [\"x\"]\nmodel.card = \"models/opt-tiny.toml\"\n", "t", {}, folder);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model.activation, compute::ActivationKind::kRelu);
  EXPECT_EQ(config->base_dir, folder);
}

}  // namespace
}  // namespace tenax::configs
