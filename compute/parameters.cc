#include "compute/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "common/counter_rng.h"
#include "common/hash.h"

namespace tenax::compute {
namespace {

/// Appends tensors to a list under a common prefix.
class SpecList {
 public:
  explicit SpecList(const ModelOptions& options) : options_(options) {}

  void add(std::string name, std::vector<std::int64_t> shape, InitRule init, TensorSplit split) {
    const bool matrix = shape.size() > 1;
    specs_.push_back({std::move(name), std::move(shape), init, matrix, split});
  }
  void matrix(std::string name, std::int64_t out, std::int64_t in, double std, TensorSplit split) {
    add(std::move(name), {out, in}, {InitRule::Kind::kNormal, std}, split);
  }
  void linear_weight(const std::string& prefix, std::int64_t out, std::int64_t in, double std,
                     TensorSplit split) {
    matrix(prefix + ".weight", out, in, std, split);
  }
  void linear_bias(const std::string& prefix, std::int64_t out, TensorSplit split) {
    if (options_.biases) add(prefix + ".bias", {out}, {InitRule::Kind::kZeros, 0}, split);
  }
  void norm(const std::string& prefix, std::int64_t n, bool with_bias,
            TensorSplit split = TensorSplit::kSum) {
    add(prefix + ".weight", {n}, {InitRule::Kind::kOnes, 0}, split);
    if (with_bias) add(prefix + ".bias", {n}, {InitRule::Kind::kZeros, 0}, split);
  }
  std::vector<ParameterSpec> take() { return std::move(specs_); }

 private:
  const ModelOptions& options_;
  std::vector<ParameterSpec> specs_;
};

bool norm_has_bias(const ModelOptions& o) { return o.biases && o.norm == NormKind::kLayerNorm; }

void add_embedding(const ModelOptions& o, SpecList& list) {
  list.matrix(kTokenEmbedding, o.padded_vocabulary_size, o.width, o.init_std,
              TensorSplit::kVocabulary);
  if (o.positions == PositionKind::kLearned)
    list.matrix("embedding.position.weight", o.max_sequence_length, o.width, o.init_std,
                TensorSplit::kNone);
  if (o.embedding_norm) list.norm("embedding.norm", o.width, norm_has_bias(o));
}

void add_layer(const ModelOptions& o, int layer, SpecList& list) {
  using enum TensorSplit;
  const std::string prefix = fmt::format("layers.{}.", layer);
  const double residual_std = o.scale_residual_init
                                  ? o.init_std / std::sqrt(2.0 * static_cast<double>(o.num_layers))
                                  : o.init_std;
  const std::int64_t query = o.num_heads * o.head_dim;
  const std::int64_t kv = o.num_kv_heads * o.head_dim;

  list.norm(prefix + "attention_norm", o.width, norm_has_bias(o));
  const std::string attention = prefix + "attention.";
  list.linear_weight(attention + "query", query, o.width, o.init_std, kRows);
  list.linear_weight(attention + "key", kv, o.width, o.init_std, kKeyValueRows);
  list.linear_weight(attention + "value", kv, o.width, o.init_std, kKeyValueRows);
  list.linear_bias(attention + "query", query, kRows);
  list.linear_bias(attention + "key", kv, kKeyValueRows);
  list.linear_bias(attention + "value", kv, kKeyValueRows);
  if (o.qk_norm) {
    list.norm(attention + "query_norm", o.head_dim, false, kSum);
    list.norm(attention + "key_norm", o.head_dim, false, kSum);
  }
  list.linear_weight(attention + "output", o.width, query, residual_std, kColumns);
  list.linear_bias(attention + "output", o.width, kNone);

  if (!o.parallel_block) list.norm(prefix + "ffn_norm", o.width, norm_has_bias(o));
  const std::string ffn = prefix + "ffn.";
  if (is_gated(o.activation)) {
    list.linear_weight(ffn + "gate", o.ffn_width, o.width, o.init_std, kRows);
    list.linear_bias(ffn + "gate", o.ffn_width, kRows);
  }
  list.linear_weight(ffn + "up", o.ffn_width, o.width, o.init_std, kRows);
  list.linear_bias(ffn + "up", o.ffn_width, kRows);
  list.linear_weight(ffn + "down", o.width, o.ffn_width, residual_std, kColumns);
  list.linear_bias(ffn + "down", o.width, kNone);
}

}  // namespace

std::int64_t ParameterSpec::num_elements() const {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

std::vector<ParameterSpec> stage_parameters(const ModelOptions& options, int first_layer,
                                            int end_layer, bool has_embedding, bool has_head) {
  const ModelOptions o = resolved(options);
  SpecList list(o);
  if (has_embedding)
    add_embedding(o, list);
  else if (has_head && o.tied_output)
    list.matrix(kTokenEmbedding, o.padded_vocabulary_size, o.width, o.init_std,
                TensorSplit::kVocabulary);
  for (int layer = first_layer; layer < end_layer; ++layer) add_layer(o, layer, list);
  if (has_head) {
    if (o.norm_placement == NormPlacement::kPre) list.norm("final_norm", o.width, norm_has_bias(o));
    if (!o.tied_output)
      list.matrix("output.weight", o.padded_vocabulary_size, o.width, o.init_std,
                  TensorSplit::kVocabulary);
  }
  return list.take();
}

std::vector<ParameterSpec> model_parameters(const ModelOptions& options) {
  return stage_parameters(options, 0, static_cast<int>(options.num_layers), true, true);
}

void initial_values(const ParameterSpec& spec, std::uint64_t seed, std::int64_t begin,
                    std::span<float> values) {
  switch (spec.init.kind) {
    case InitRule::Kind::kZeros:
      std::ranges::fill(values, 0.0f);
      return;
    case InitRule::Kind::kOnes:
      std::ranges::fill(values, 1.0f);
      return;
    case InitRule::Kind::kNormal: {
      const CounterRng rng(seed, hash64(spec.name));
      const auto std = static_cast<float>(spec.init.std);
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = std * rng.normal(static_cast<std::uint64_t>(begin) + i);
      return;
    }
  }
}

}  // namespace tenax::compute
