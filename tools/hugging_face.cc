#include "tools/hugging_face.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/check.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

using compute::ActivationKind;
using compute::ModelOptions;
using compute::NormKind;
using compute::NormPlacement;
using compute::ParameterSpec;
using compute::PositionKind;

/// Why neither foreign scheme can hold the model; empty if one may.
std::string oddity(const ModelOptions& o) {
  if (o.norm_placement != NormPlacement::kPre) return "norms behind the layers";
  if (o.parallel_block) return "parallel blocks";
  if (o.embedding_norm) return "a norm behind the embedding";
  if (o.qk_norm) return "norms of query and key";
  if (o.embedding_scale != 1 || o.logit_scale != 1) return "scaled embeddings or logits";
  return {};
}

bool is_gpt2(const ModelOptions& o) {
  return oddity(o).empty() && o.norm == NormKind::kLayerNorm &&
         o.positions == PositionKind::kLearned && !compute::is_gated(o.activation) && o.biases &&
         o.num_kv_heads == o.num_heads && o.num_heads * o.head_dim == o.width;
}

bool is_llama(const ModelOptions& o) {
  return oddity(o).empty() && o.norm == NormKind::kRmsNorm && o.positions == PositionKind::kRope &&
         compute::is_gated(o.activation);
}

/// Builds the list of foreign tensors from our specs, which it looks up by name.
class TensorList {
 public:
  explicit TensorList(const ModelOptions& options) : options_(options) {
    for (ParameterSpec& spec : compute::model_parameters(options)) {
      std::string name = spec.name;
      specs_.emplace(std::move(name), std::move(spec));
    }
  }

  bool has(const std::string& ours) const { return specs_.contains(ours); }

  void same(std::string name, const std::string& ours) {
    const ParameterSpec& spec = specs_.at(ours);
    add({std::move(name), spec.shape, Arrangement::kSame, {spec}, 0});
  }
  /// Without the rows that pad the vocabulary.
  void vocabulary(std::string name, const std::string& ours) {
    const ParameterSpec& spec = specs_.at(ours);
    add({std::move(name),
         {options_.vocabulary_size, options_.width},
         Arrangement::kSame,
         {spec},
         0});
  }
  void rotary(std::string name, const std::string& ours) {
    const ParameterSpec& spec = specs_.at(ours);
    add({std::move(name), spec.shape, Arrangement::kRotaryHalves, {spec}, options_.head_dim});
  }
  /// weight and bias of a Conv1D made of one linear map or of several side by side.
  void conv1d(const std::string& name, const std::vector<std::string>& ours) {
    ForeignTensor weight{name + ".weight", {}, Arrangement::kTransposed, {}, 0};
    ForeignTensor bias{name + ".bias", {}, Arrangement::kSame, {}, 0};
    std::int64_t in = 0;
    std::int64_t out = 0;
    for (const std::string& linear : ours) {
      weight.parts.push_back(specs_.at(linear + ".weight"));
      bias.parts.push_back(specs_.at(linear + ".bias"));
      out += weight.parts.back().shape[0];
      in = weight.parts.back().shape[1];
    }
    weight.shape = {in, out};
    bias.shape = {out};
    add(std::move(weight));
    add(std::move(bias));
  }
  void add(ForeignTensor tensor) { tensors_.push_back(std::move(tensor)); }

  std::vector<ForeignTensor> take() { return std::move(tensors_); }

 private:
  const ModelOptions& options_;
  std::map<std::string, ParameterSpec> specs_;
  std::vector<ForeignTensor> tensors_;
};

std::vector<ForeignTensor> gpt2_tensors(const ModelOptions& o) {
  TensorList list(o);
  const auto norm = [&](const std::string& name, const std::string& ours) {
    list.same(name + ".weight", ours + ".weight");
    list.same(name + ".bias", ours + ".bias");
  };
  list.vocabulary("transformer.wte.weight", compute::kTokenEmbedding);
  list.same("transformer.wpe.weight", "embedding.position.weight");
  for (std::int64_t i = 0; i < o.num_layers; ++i) {
    const std::string theirs = fmt::format("transformer.h.{}.", i);
    const std::string ours = fmt::format("layers.{}.", i);
    norm(theirs + "ln_1", ours + "attention_norm");
    list.conv1d(theirs + "attn.c_attn",
                {ours + "attention.query", ours + "attention.key", ours + "attention.value"});
    list.conv1d(theirs + "attn.c_proj", {ours + "attention.output"});
    norm(theirs + "ln_2", ours + "ffn_norm");
    list.conv1d(theirs + "mlp.c_fc", {ours + "ffn.up"});
    list.conv1d(theirs + "mlp.c_proj", {ours + "ffn.down"});
  }
  norm("transformer.ln_f", "final_norm");
  if (!o.tied_output) list.vocabulary("lm_head.weight", "output.weight");
  return list.take();
}

std::vector<ForeignTensor> llama_tensors(const ModelOptions& o) {
  TensorList list(o);
  list.vocabulary("model.embed_tokens.weight", compute::kTokenEmbedding);
  for (std::int64_t i = 0; i < o.num_layers; ++i) {
    const std::string theirs = fmt::format("model.layers.{}.", i);
    const std::string ours = fmt::format("layers.{}.", i);
    list.same(theirs + "input_layernorm.weight", ours + "attention_norm.weight");
    for (const char* part : {".weight", ".bias"}) {
      if (!list.has(ours + "attention.query" + part)) continue;
      list.rotary(theirs + "self_attn.q_proj" + part, ours + "attention.query" + part);
      list.rotary(theirs + "self_attn.k_proj" + part, ours + "attention.key" + part);
      list.same(theirs + "self_attn.v_proj" + part, ours + "attention.value" + part);
      list.same(theirs + "self_attn.o_proj" + part, ours + "attention.output" + part);
    }
    list.same(theirs + "post_attention_layernorm.weight", ours + "ffn_norm.weight");
    for (const char* part : {".weight", ".bias"}) {
      if (!list.has(ours + "ffn.up" + part)) continue;
      list.same(theirs + "mlp.gate_proj" + part, ours + "ffn.gate" + part);
      list.same(theirs + "mlp.up_proj" + part, ours + "ffn.up" + part);
      list.same(theirs + "mlp.down_proj" + part, ours + "ffn.down" + part);
    }
  }
  list.same("model.norm.weight", "final_norm.weight");
  if (!o.tied_output) list.vocabulary("lm_head.weight", "output.weight");
  return list.take();
}

const char* activation_name(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kGeluErf:
    case ActivationKind::kGeglu:
      return "gelu";
    case ActivationKind::kGeluTanh:
      return "gelu_new";
    case ActivationKind::kRelu:
      return "relu";
    case ActivationKind::kSwiglu:
      return "silu";
  }
  return "gelu";
}

json config_of(const ModelOptions& o, NamingScheme scheme) {
  if (scheme == NamingScheme::kGpt2) {
    return {{"architectures", {"GPT2LMHeadModel"}},
            {"model_type", "gpt2"},
            {"vocab_size", o.vocabulary_size},
            {"n_positions", o.max_sequence_length},
            {"n_ctx", o.max_sequence_length},
            {"n_embd", o.width},
            {"n_layer", o.num_layers},
            {"n_head", o.num_heads},
            {"n_inner", o.ffn_width},
            {"activation_function", activation_name(o.activation)},
            {"layer_norm_epsilon", o.norm_epsilon},
            {"tie_word_embeddings", o.tied_output},
            {"attn_pdrop", 0.0},
            {"embd_pdrop", 0.0},
            {"resid_pdrop", 0.0}};
  }
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", o.vocabulary_size},
          {"max_position_embeddings", o.max_sequence_length},
          {"hidden_size", o.width},
          {"intermediate_size", o.ffn_width},
          {"num_hidden_layers", o.num_layers},
          {"num_attention_heads", o.num_heads},
          {"num_key_value_heads", o.num_kv_heads},
          {"head_dim", o.head_dim},
          {"hidden_act", activation_name(o.activation)},
          {"rms_norm_eps", o.norm_epsilon},
          {"rope_theta", o.rope_theta},
          {"attention_bias", o.biases},
          {"mlp_bias", o.biases},
          {"tie_word_embeddings", o.tied_output}};
}

/// Two spellings of one activation.
std::string canonical(std::string text) { return text == "gelu_pytorch_tanh" ? "gelu_new" : text; }

bool agree(const json& a, const json& b) {
  if (a.is_number() && b.is_number()) {
    const double x = a.get<double>();
    const double y = b.get<double>();
    return std::abs(x - y) <= 1e-6 * std::max(std::abs(x), std::abs(y));
  }
  if (a.is_string() && b.is_string()) {
    return canonical(a.get<std::string>()) == canonical(b.get<std::string>());
  }
  return a == b;
}

}  // namespace

std::string_view to_string(NamingScheme scheme) {
  switch (scheme) {
    case NamingScheme::kGpt2:
      return "GPT-2";
    case NamingScheme::kLlama:
      return "LLaMA";
    case NamingScheme::kTenax:
      return "Tenax";
  }
  return "Tenax";
}

std::int64_t ForeignTensor::rows() const {
  const bool column = arrangement == Arrangement::kRotaryHalves;
  return shape.size() == 1 && !column ? 1 : shape[0];
}

std::int64_t ForeignTensor::columns() const {
  const bool column = arrangement == Arrangement::kRotaryHalves;
  return shape.size() == 1 ? (column ? 1 : shape[0]) : shape[1];
}

ForeignModel foreign_model(const ModelOptions& unresolved) {
  const ModelOptions o = compute::resolved(unresolved);
  if (is_gpt2(o)) return {NamingScheme::kGpt2, {}, gpt2_tensors(o)};
  if (is_llama(o)) return {NamingScheme::kLlama, {}, llama_tensors(o)};
  ForeignModel model;
  model.reason = oddity(o);
  if (model.reason.empty()) {
    model.reason = "its norms, positions, activation and biases are those of neither";
  }
  for (ParameterSpec& spec : compute::model_parameters(o)) {
    ForeignTensor tensor{spec.name, spec.shape, Arrangement::kSame, {}, 0};
    tensor.parts.push_back(std::move(spec));
    model.tensors.push_back(std::move(tensor));
  }
  return model;
}

std::string transformers_config(const ModelOptions& unresolved, NamingScheme scheme,
                                std::int64_t end_of_document) {
  json config = config_of(compute::resolved(unresolved), scheme);
  config["bos_token_id"] = end_of_document;
  config["eos_token_id"] = end_of_document;
  config["torch_dtype"] = "float32";
  return config.dump(2) + "\n";
}

Result<std::vector<std::string>> contradictions(const ModelOptions& unresolved, NamingScheme scheme,
                                                std::string_view config_json) {
  const json theirs = json::parse(config_json, nullptr, false);
  if (!theirs.is_object()) return make_error(ErrorCode::kDataLoss, "config.json is no JSON object");
  std::vector<std::string> found;
  if (scheme == NamingScheme::kTenax) return found;
  const json ours = config_of(compute::resolved(unresolved), scheme);
  for (const char* key : {"model_type", "n_head", "activation_function", "layer_norm_epsilon",
                          "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
                          "rms_norm_eps", "rope_theta", "tie_word_embeddings"}) {
    if (!ours.contains(key) || !theirs.contains(key) || theirs[key].is_null()) continue;
    if (agree(ours[key], theirs[key])) continue;
    found.push_back(fmt::format("{} is {} there and {} in the recipe", key, theirs[key].dump(),
                                ours[key].dump()));
  }
  if (theirs.contains("rope_scaling") && !theirs["rope_scaling"].is_null()) {
    found.push_back("rope_scaling is set there; Tenax does not scale RoPE");
  }
  return found;
}

std::int64_t rows_at_once(const ForeignTensor& tensor) {
  constexpr std::int64_t kElements = 4 << 20;
  const std::int64_t rows = std::max<std::int64_t>(1, kElements / tensor.columns());
  if (tensor.arrangement != Arrangement::kRotaryHalves) return rows;
  return std::max<std::int64_t>(1, rows / tensor.head_dim) * tensor.head_dim;
}

namespace {

/// Calls move(foreign row, foreign column, index in `box` of ours) for what `num_rows` foreign rows
/// have of a part whose columns begin at `column`.
template <class Move>
void for_each_element(const ForeignTensor& tensor, std::int64_t num_rows, std::int64_t columns,
                      Move move) {
  const std::int64_t half = tensor.head_dim / 2;
  for (std::int64_t r = 0; r < num_rows; ++r) {
    std::int64_t row = r;
    if (tensor.arrangement == Arrangement::kRotaryHalves) {
      const std::int64_t in_head = r % tensor.head_dim;
      row = r - in_head + 2 * (in_head % half) + in_head / half;
    }
    for (std::int64_t c = 0; c < columns; ++c) move(r, c, row);
  }
}

/// Columns of a part within the foreign tensor.
std::int64_t columns_of(const ForeignTensor& tensor, const ParameterSpec& part) {
  if (tensor.arrangement == Arrangement::kTransposed || part.shape.size() == 1) {
    return tensor.arrangement == Arrangement::kRotaryHalves ? 1 : part.shape[0];
  }
  return part.shape[1];
}

}  // namespace

Status read_rows(const ForeignTensor& tensor, std::int64_t first, std::int64_t num_rows,
                 const ReadBox& read, std::span<float> out) {
  const std::int64_t width = tensor.columns();
  TENAX_CHECK(static_cast<std::int64_t>(out.size()) == num_rows * width);
  const bool transposed = tensor.arrangement == Arrangement::kTransposed;
  std::vector<float> values;
  std::int64_t begin = 0;
  for (const ParameterSpec& part : tensor.parts) {
    const std::int64_t columns = columns_of(tensor, part);
    Box box{std::vector<std::int64_t>(part.shape.size(), 0), part.shape};
    if (part.shape.size() == 2 || tensor.arrangement == Arrangement::kRotaryHalves) {
      const std::size_t dim = transposed ? 1 : 0;
      box.offset[dim] = first;
      box.extent[dim] = num_rows;
    }
    values.resize(static_cast<std::size_t>(num_rows * columns));
    TENAX_RETURN_IF_ERROR(read(part.name, box, values));
    for_each_element(
        tensor, num_rows, columns, [&](std::int64_t r, std::int64_t c, std::int64_t row) {
          out[static_cast<std::size_t>(r * width + begin + c)] =
              values[static_cast<std::size_t>(transposed ? c * num_rows + row : row * columns + c)];
        });
    begin += columns;
  }
  return {};
}

void place_rows(const ForeignTensor& tensor, std::size_t part, std::int64_t first,
                std::int64_t num_rows, std::span<const float> rows, std::span<float> ours) {
  const std::int64_t width = tensor.columns();
  std::int64_t begin = 0;
  for (std::size_t p = 0; p < part; ++p) begin += columns_of(tensor, tensor.parts[p]);
  const std::int64_t columns = columns_of(tensor, tensor.parts[part]);
  const bool transposed = tensor.arrangement == Arrangement::kTransposed;
  const std::int64_t height = tensor.rows();
  for_each_element(
      tensor, num_rows, columns, [&](std::int64_t r, std::int64_t c, std::int64_t row) {
        const std::int64_t at = transposed ? c * height + first + row : (first + row) * columns + c;
        ours[static_cast<std::size_t>(at)] = rows[static_cast<std::size_t>(r * width + begin + c)];
      });
}

}  // namespace tenax::tools
