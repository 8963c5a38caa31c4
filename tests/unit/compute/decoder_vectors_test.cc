// The engine against PyTorch: loss, logits, every tensor's gradient and three AdamW updates of each
// tiny model, from tests/reference/decoder_vectors.txt, which make_decoder_vectors.py beside it
// wrote.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "compute/adamw.h"
#include "compute/tensor_norm.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

/// 32 well mixed bits of element i of a stream; the script has the same.
std::uint32_t hashed(const std::string& name, std::uint32_t i) {
  std::uint32_t h = 2166136261u;
  for (const char byte : name) h = (h ^ static_cast<unsigned char>(byte)) * 16777619u;
  h ^= i * 2654435761u;
  h = (h ^ (h >> 16)) * 0x45D9F3Bu;
  h = (h ^ (h >> 16)) * 0x45D9F3Bu;
  return h ^ (h >> 16);
}

float uniform(const std::string& name, std::size_t i) {
  return static_cast<float>(hashed(name, static_cast<std::uint32_t>(i)) >> 8) * 0x1p-24f - 0.5f;
}

struct TensorVector {
  double gradient_dot = 0;
  double gradient_norm = 0;
  double updated_dot = 0;
};

struct ModelVectors {
  double loss = 0;
  double z_term = 0;
  std::vector<double> logits;
  std::map<std::string, TensorVector> tensors;
};

std::map<std::string, ModelVectors> read_vectors() {
  std::ifstream file(TENAX_SOURCE_DIR "/tests/reference/decoder_vectors.txt");
  std::map<std::string, ModelVectors> models;
  ModelVectors* model = nullptr;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind, name;
    words >> kind;
    if (kind == "model") {
      words >> name;
      model = &models[name];
    } else if (kind == "loss") {
      words >> model->loss >> model->z_term;
    } else if (kind == "logits") {
      for (double value; words >> value;) model->logits.push_back(value);
    } else if (kind == "tensor") {
      words >> name;
      TensorVector& t = model->tensors[name];
      words >> t.gradient_dot >> t.gradient_norm >> t.updated_dot;
    }
  }
  return models;
}

TestBatch reference_batch(const ModelOptions& options) {
  TestBatch batch(options, {2, 7});
  const auto vocabulary = static_cast<std::uint32_t>(options.vocabulary_size);
  for (std::uint32_t i = 0; i < 14; ++i) {
    batch.tokens[i] = static_cast<std::int32_t>(hashed("tokens", i) % vocabulary);
    batch.targets[i] = static_cast<std::int32_t>(hashed("targets", i) % vocabulary);
  }
  batch.targets[2] = batch.targets[13] = -1;
  return batch;
}

std::span<float> slice(std::span<float> flat, std::int64_t offset, std::int64_t size) {
  return flat.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
}

double dot(const std::string& name, std::span<const float> values) {
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i)
    sum += static_cast<double>(values[i]) * static_cast<double>(uniform(name + " weight", i));
  return sum;
}

class DecoderVectors : public testing::TestWithParam<TinyModel> {
 protected:
  void SetUp() override {
    const auto vectors = read_vectors();
    ASSERT_TRUE(vectors.contains(GetParam().name));
    expected_ = vectors.at(GetParam().name);
    const ModelOptions& options = GetParam().options;
    stage_ = make_stage(options, whole_model(options), {2, 7}, 1, settings());
    for (const StageParameter& p : stage_->parameters())
      for (std::size_t i = 0; i < static_cast<std::size_t>(p.size); ++i)
        slice(stage_->values(), p.offset, p.size)[i] =
            uniform(p.spec.name, i) + (p.spec.init.kind == InitRule::Kind::kOnes ? 1.0f : 0.0f);
  }

  virtual StageSettings settings() const { return {}; }

  void expect_loss_and_gradients(const Trained& trained) const {
    // fp32 against double: about a hundred roundings of 6e-8 of values of that size, here and
    // below.
    EXPECT_NEAR(trained.loss.sum, expected_.loss, 1e-5 * expected_.loss);
    EXPECT_NEAR(trained.loss.z_sum, expected_.z_term, 1e-5 * (1 + expected_.z_term));
    ASSERT_EQ(stage_->parameters().size(), expected_.tensors.size());
    std::vector<float> gradient = whole_gradient(trained);
    for (const StageParameter& p : stage_->parameters()) {
      const TensorVector& tensor = expected_.tensors.at(p.spec.name);
      const auto values = slice(gradient, p.offset, p.size);
      EXPECT_NEAR(dot(p.spec.name, values), tensor.gradient_dot, 1e-5 * (1 + tensor.gradient_norm))
          << p.spec.name;
      EXPECT_NEAR(std::sqrt(sum_of_squares(values)), tensor.gradient_norm,
                  1e-5 * (1 + tensor.gradient_norm))
          << p.spec.name;
    }
  }

  /// The gradient with both parts of a tied embedding added up in the first's place.
  std::vector<float> whole_gradient(Trained trained) const {
    for (const StageParameter& p : stage_->parameters())
      if (p.gradients.size() == 2)
        for (std::size_t i = 0; i < static_cast<std::size_t>(p.size); ++i)
          slice(trained.gradient, p.gradients[0].offset, p.size)[i] +=
              slice(trained.gradient, p.gradients[1].offset, p.size)[i];
    return trained.gradient;
  }

  ModelVectors expected_;
  std::unique_ptr<Stage> stage_;
};

TEST_P(DecoderVectors, LossLogitsAndGradientsEqualPyTorch) {
  const TestBatch batch = reference_batch(GetParam().options);
  const Trained trained = train_once(*stage_, batch);
  expect_loss_and_gradients(trained);
  std::vector<float> logits(expected_.logits.size());
  stage_->next_token_logits(std::span(batch.tokens).first(7), logits);
  for (std::size_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(logits[i], expected_.logits[i], 2e-5);
}

TEST_P(DecoderVectors, ThreeUpdatesEqualPyTorch) {
  const TestBatch batch = reference_batch(GetParam().options);
  const auto size = stage_->values().size();
  std::vector<float> m(size), v(size);
  for (int step = 1; step <= 3; ++step) {
    const Trained trained = train_once(*stage_, batch);
    std::vector<float> gradient = whole_gradient(trained);
    const AdamwStep update{step, 0.01, 1.0 / static_cast<double>(trained.loss.targets)};
    for (const StageParameter& p : stage_->parameters())
      adamw_update({0.9, 0.95, 1e-3, 0.1}, update,
                   {slice(stage_->values(), p.offset, p.size), slice(gradient, p.offset, p.size),
                    slice(m, p.offset, p.size), slice(v, p.offset, p.size), p.spec.decay});
  }
  for (const StageParameter& p : stage_->parameters()) {
    // An update moves by about the rate, 0.01, whatever the gradient; with epsilon 1e-3 a
    // gradient's error of 1e-6 moves it by at most 1e-5 a step and element; random signs over the
    // tensor's elements leave their square root.
    const double bound = 3e-5 * 0.3 * std::sqrt(static_cast<double>(p.size)) + 1e-6;
    EXPECT_NEAR(dot(p.spec.name, slice(stage_->values(), p.offset, p.size)),
                expected_.tensors.at(p.spec.name).updated_dot, bound)
        << p.spec.name;
  }
}

constexpr DropoutRates kRates{0.2, 0.3, 0.25};
constexpr std::uint64_t kDropoutSeed = 7;
const std::vector<std::int64_t> kSamples = {5, 1000000007};

/// The masks of both samples: a line for each place, its rows in order as 0 and 1.
std::string exported_masks() {
  std::string text;
  const auto add = [&](const std::string& site, double rate, int rows, std::uint32_t columns) {
    text += site;
    for (const std::int64_t sample : kSamples)
      for (int r = 0; r < rows; ++r) {
        const DropoutRow row = dropout_row(dropout_site(kDropoutSeed, site, rate), sample,
                                           static_cast<std::uint64_t>(r));
        text += ' ';
        for (std::uint32_t c = 0; c < columns; ++c) text += dropout_factor(row, c) > 0 ? '1' : '0';
      }
    text += '\n';
  };
  constexpr int kTokens = 7;
  constexpr int kMostHeads = 4;
  add("embedding", kRates.embedding, kTokens, 12);
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    add(layer + "attention.probabilities", kRates.attention, kMostHeads * kTokens, kTokens);
    add(layer + "attention.output", kRates.residual, kTokens, 12);
    add(layer + "ffn.output", kRates.residual, kTokens, 12);
  }
  return text;
}

TEST(DropoutMasks, AreThoseThatPyTorchWasGiven) {
  std::ifstream file(TENAX_SOURCE_DIR "/tests/reference/dropout_masks.txt");
  std::string stored;
  for (std::string line; std::getline(file, line);)
    if (!line.starts_with('#')) stored += line + '\n';
  const std::string exported = exported_masks();
  const std::string copy = testing::TempDir() + "dropout_masks.txt";
  std::ofstream(copy) << exported;
  EXPECT_TRUE(stored == exported) << "the engine's masks are in " << copy;
}

class DropoutVectors : public DecoderVectors {
 protected:
  StageSettings settings() const override {
    StageSettings settings;
    settings.dropout = kRates;
    settings.dropout_seed = kDropoutSeed;
    return settings;
  }
};

TEST_P(DropoutVectors, LossAndGradientsEqualPyTorchUnderTheSameMasks) {
  TestBatch batch = reference_batch(GetParam().options);
  batch.samples = kSamples;
  expect_loss_and_gradients(train_once(*stage_, batch));
}

std::vector<TinyModel> dropout_models() {
  std::vector<TinyModel> models;
  for (const char* name : {"Gpt2", "Llama", "Bloom", "Palm", "PostNorm"})
    for (const TinyModel& model : tiny_models())
      if (model.name == name) models.push_back({model.name + "Dropout", model.options});
  return models;
}

INSTANTIATE_TEST_SUITE_P(Models, DropoutVectors, testing::ValuesIn(dropout_models()),
                         [](const auto& model) { return model.param.name; });

INSTANTIATE_TEST_SUITE_P(Models, DecoderVectors, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.name; });

}  // namespace
}  // namespace tenax::compute
