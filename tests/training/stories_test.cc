// A trained LLaMA (rotary positions, grouped-query attention, SwiGLU, RMSNorm, tied output) from
// llama2.c's binary form: the engine writes the same 200 tokens as the plain implementation below,
// and they are the story that the model is known for.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>

#include "compute/stage.h"
#include "tests/unit/data/shared_data.h"

namespace tenax::testing {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

/// Header of seven int32, then all tensors as float32, those of all layers together by kind.
struct Llama2File {
  std::int32_t dim = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, vocabulary = 0,
               max_length = 0;
  Floats embedding, attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3, final_norm;

  int head_dim() const { return dim / heads; }

  static Llama2File read(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    Llama2File f;
    for (std::int32_t* field :
         {&f.dim, &f.hidden, &f.layers, &f.heads, &f.kv_heads, &f.vocabulary, &f.max_length}) {
      in.read(reinterpret_cast<char*>(field), sizeof *field);
    }
    const int kv = f.kv_heads * f.head_dim();
    const std::pair<Floats*, std::int64_t> tensors[] = {{&f.embedding, f.vocabulary * f.dim},
                                                        {&f.attention_norm, f.layers * f.dim},
                                                        {&f.wq, f.layers * f.dim * f.dim},
                                                        {&f.wk, f.layers * kv * f.dim},
                                                        {&f.wv, f.layers * kv * f.dim},
                                                        {&f.wo, f.layers * f.dim * f.dim},
                                                        {&f.ffn_norm, f.layers * f.dim},
                                                        {&f.w1, f.layers * f.hidden * f.dim},
                                                        {&f.w2, f.layers * f.dim * f.hidden},
                                                        {&f.w3, f.layers * f.hidden * f.dim},
                                                        {&f.final_norm, f.dim}};
    for (const auto& [tensor, size] : tensors) {
      tensor->resize(static_cast<std::size_t>(size));
      in.read(reinterpret_cast<char*>(tensor->data()), size * 4);
    }
    EXPECT_TRUE(in);
    return f;
  }
};

/// One token at a time with a cache, in double, loop by loop.
class PlainLlama {
 public:
  explicit PlainLlama(const Llama2File& file) : f_(file) {}

  Doubles logits_after(std::int32_t token) {
    const auto position = static_cast<double>(keys_[0].size());
    Doubles x(f_.embedding.begin() + token * f_.dim, f_.embedding.begin() + (token + 1) * f_.dim);
    for (int layer = 0; layer < f_.layers; ++layer) {
      add(x, attend(layer, position, normed(x, &f_.attention_norm[at(layer * f_.dim)])));
      add(x, feed_forward(layer, normed(x, &f_.ffn_norm[at(layer * f_.dim)])));
    }
    return product(f_.embedding.data(), f_.vocabulary, normed(x, f_.final_norm.data()));
  }

 private:
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  static void add(Doubles& x, const Doubles& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  static Doubles normed(const Doubles& x, const float* weight) {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5);
    Doubles y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * weight[i];
    return y;
  }
  static Doubles product(const float* matrix, int rows, const Doubles& x) {
    Doubles y(at(rows));
    for (std::size_t r = 0; r < y.size(); ++r)
      for (std::size_t i = 0; i < x.size(); ++i) y[r] += matrix[r * x.size() + i] * x[i];
    return y;
  }
  void rotate(Doubles& heads, double position) const {
    for (std::size_t i = 0; i < heads.size(); i += 2) {
      const auto within = static_cast<double>(i % at(f_.head_dim()));
      const double angle = position / std::pow(10000.0, within / f_.head_dim());
      const double a = heads[i], b = heads[i + 1];
      heads[i] = a * std::cos(angle) - b * std::sin(angle);
      heads[i + 1] = a * std::sin(angle) + b * std::cos(angle);
    }
  }
  Doubles attend(int layer, double position, const Doubles& x) {
    const int d = f_.head_dim(), kv = f_.kv_heads * d;
    Doubles q = product(&f_.wq[at(layer * f_.dim * f_.dim)], f_.dim, x);
    Doubles k = product(&f_.wk[at(layer * kv * f_.dim)], kv, x);
    rotate(q, position);
    rotate(k, position);
    keys_[layer].push_back(k);
    values_[layer].push_back(product(&f_.wv[at(layer * kv * f_.dim)], kv, x));
    Doubles attended(at(f_.dim));
    for (int head = 0; head < f_.heads; ++head) {
      const int shared = head / (f_.heads / f_.kv_heads) * d;
      Doubles weights;
      for (const Doubles& key : keys_[layer]) {
        double dot = 0;
        for (int i = 0; i < d; ++i) dot += q[at(head * d + i)] * key[at(shared + i)];
        weights.push_back(std::exp(dot / std::sqrt(d)));
      }
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (std::size_t t = 0; t < weights.size(); ++t)
        for (int i = 0; i < d; ++i)
          attended[at(head * d + i)] += weights[t] / sum * values_[layer][t][at(shared + i)];
    }
    return product(&f_.wo[at(layer * f_.dim * f_.dim)], f_.dim, attended);
  }
  Doubles feed_forward(int layer, const Doubles& x) const {
    const std::size_t from = at(layer * f_.hidden * f_.dim);
    Doubles gate = product(&f_.w1[from], f_.hidden, x);
    const Doubles up = product(&f_.w3[from], f_.hidden, x);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
    return product(&f_.w2[from], f_.dim, gate);
  }

  const Llama2File& f_;
  std::map<int, std::vector<Doubles>> keys_;
  std::map<int, std::vector<Doubles>> values_;
};

std::unique_ptr<compute::Stage> engine_with(const Llama2File& f, int length) {
  compute::ModelOptions o;
  o.vocabulary_size = f.vocabulary;
  o.max_sequence_length = length;
  o.width = f.dim;
  o.num_layers = f.layers;
  o.num_heads = f.heads;
  o.num_kv_heads = f.kv_heads;
  o.ffn_width = f.hidden;
  o.norm = compute::NormKind::kRmsNorm;
  o.positions = compute::PositionKind::kRope;
  o.activation = compute::ActivationKind::kSwiglu;
  o.biases = false;
  auto stage = compute::Stage::create(o, compute::whole_model(o), {1, length}, 0);
  if (!stage) {
    ADD_FAILURE() << stage.error().message;
    return nullptr;
  }
  const std::map<std::string, const Floats*> by_part = {
      {"attention_norm.weight", &f.attention_norm},
      {"attention.query.weight", &f.wq},
      {"attention.key.weight", &f.wk},
      {"attention.value.weight", &f.wv},
      {"attention.output.weight", &f.wo},
      {"ffn_norm.weight", &f.ffn_norm},
      {"ffn.gate.weight", &f.w1},
      {"ffn.down.weight", &f.w2},
      {"ffn.up.weight", &f.w3}};
  for (const compute::StageParameter& p : (*stage)->parameters()) {
    const Floats* from = p.spec.name == "final_norm.weight" ? &f.final_norm : &f.embedding;
    std::int64_t layer = 0;
    if (p.spec.name.starts_with("layers.")) {
      const std::size_t dot = p.spec.name.find('.', 7);
      layer = std::stoi(p.spec.name.substr(7, dot - 7));
      from = by_part.at(p.spec.name.substr(dot + 1));
    }
    std::memcpy((*stage)->values().data() + p.offset, from->data() + layer * p.size,
                static_cast<std::size_t>(p.size) * sizeof(float));
  }
  return std::move(*stage);
}

/// Pieces of llama2.c's tokenizer file: the longest length, then score, length and bytes of each.
std::string text_of(const std::vector<std::int32_t>& tokens, const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::int32_t longest = 0;
  in.read(reinterpret_cast<char*>(&longest), 4);
  std::vector<std::string> pieces;
  float score = 0;
  std::int32_t length = 0;
  while (in.read(reinterpret_cast<char*>(&score), 4) &&
         in.read(reinterpret_cast<char*>(&length), 4)) {
    pieces.emplace_back(static_cast<std::size_t>(length), '\0');
    in.read(pieces.back().data(), length);
  }
  std::string text;
  for (const std::int32_t t : tokens) text += pieces.at(static_cast<std::size_t>(t));
  return text;
}

template <class Values>
std::int32_t best_of(const Values& logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(StoriesModel, WritesTheStoryOfAPlainImplementation) {
  const std::filesystem::path path = data::shared_data("models/stories260K.bin");
  TENAX_SKIP_WITHOUT(path);
  const Llama2File file = Llama2File::read(path);
  ASSERT_EQ(file.vocabulary, 512);
  constexpr int kTokens = 200;
  const auto engine = engine_with(file, kTokens);
  ASSERT_NE(engine, nullptr);
  PlainLlama plain(file);

  constexpr std::int32_t kBegin = 1;
  std::vector<std::int32_t> tokens{kBegin};
  Floats logits(512);
  for (int i = 0; i < kTokens; ++i) {
    const Doubles expected = plain.logits_after(tokens.back());
    engine->next_token_logits(tokens, logits);
    for (std::size_t v = 0; v < logits.size(); ++v)
      // Logits are sums of some hundred products of size one in fp32: eps * sqrt(K) * |logit|.
      ASSERT_NEAR(logits[v], expected[v], 2e-4) << "token " << i;
    ASSERT_EQ(best_of(logits), best_of(expected)) << "token " << i;
    tokens.push_back(best_of(logits));
  }
  tokens.erase(tokens.begin());
  const std::string story = text_of(tokens, data::shared_data("models/tok512.bin"));
  const std::string known =
      "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
      "park.";
  EXPECT_NE(story.find(known), std::string::npos) << story;
}

}  // namespace
}  // namespace tenax::testing
