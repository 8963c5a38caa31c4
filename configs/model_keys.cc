#include "configs/model_keys.h"

#include <fmt/format.h>

#include <utility>

namespace tenax::configs {

void bind_model(Binder& b, compute::ModelOptions& c, std::string_view suffix) {
  using namespace compute;
  const auto key = [&](std::string_view name) { return fmt::format("model.{}{}", name, suffix); };
  b.add(key("width"), c.width,
        {.doc = "Width of the residual stream.", .range = between(1, 1 << 24)});
  b.add(key("layers"), c.num_layers, {.doc = "Transformer layers.", .range = between(1, 1 << 16)});
  b.add(key("heads"), c.num_heads, {.doc = "Attention heads.", .range = between(1, 1 << 16)});
  b.add(key("kv_heads"), c.num_kv_heads,
        {.doc = "Key and value heads: 1 is multi-query attention; 0 means as many as heads.",
         .range = at_least(0)});
  b.add(key("head_dim"), c.head_dim,
        {.doc = "Width of a head; 0 means width / heads.", .range = at_least(0)});
  b.add(key("ffn_width"), c.ffn_width,
        {.doc = "Inner width of the feed-forward part; 0 means 4 x width.", .range = at_least(0)});
  b.add(
      key("padded_vocabulary_size"), c.padded_vocabulary_size,
      {.doc = "Rows of the embedding; 0 means the tokenizer's vocabulary.", .range = at_least(0)});
  b.add_enum(key("norm"), c.norm,
             {{"layer_norm", NormKind::kLayerNorm}, {"rms_norm", NormKind::kRmsNorm}},
             {.doc = "Kind of every norm."});
  b.add_enum(key("norm_placement"), c.norm_placement,
             {{"pre", NormPlacement::kPre}, {"post", NormPlacement::kPost}},
             {.doc = "Before each part (GPT-2) or after its residual sum."});
  b.add(key("norm_epsilon"), c.norm_epsilon,
        {.doc = "Added to a norm's variance.", .range = above(0)});
  b.add_enum(key("positions"), c.positions,
             {{"none", PositionKind::kNone},
              {"learned", PositionKind::kLearned},
              {"rope", PositionKind::kRope},
              {"alibi", PositionKind::kAlibi}},
             {.doc = "How a token knows its place."});
  b.add(key("rope_theta"), c.rope_theta,
        {.doc = "Base of the rotary frequencies.", .range = above(0)});
  b.add_enum(key("activation"), c.activation,
             {{"gelu", ActivationKind::kGeluErf},
              {"gelu_tanh", ActivationKind::kGeluTanh},
              {"relu", ActivationKind::kRelu},
              {"swiglu", ActivationKind::kSwiglu},
              {"geglu", ActivationKind::kGeglu}},
             {.doc = "Of the feed-forward part."});
  b.add(key("biases"), c.biases, {.doc = "Biases in linear maps and LayerNorms."});
  b.add(key("parallel_block"), c.parallel_block,
        {.doc = "Attention and feed-forward side by side from one norm (PaLM)."});
  b.add(key("embedding_norm"), c.embedding_norm, {.doc = "A norm after the embedding (BLOOM)."});
  b.add(key("tied_output"), c.tied_output, {.doc = "Logits use the embedding's matrix."});
  b.add(key("qk_norm"), c.qk_norm, {.doc = "A norm over each head's queries and keys."});
  b.add(key("embedding_scale"), c.embedding_scale,
        {.doc = "Multiplies the token vectors.", .range = above(0)});
  b.add(key("logit_scale"), c.logit_scale, {.doc = "Multiplies the logits.", .range = above(0)});
  b.add(key("z_loss"), c.z_loss,
        {.doc = "Weight of log(sum of exp(logits))^2 in the loss.", .range = at_least(0)});
  b.add(key("init_std"), c.init_std,
        {.doc = "Standard deviation of initial weights.", .range = above(0)});
  b.add(
      key("scale_residual_init"), c.scale_residual_init,
      {.doc = "Divides init_std by sqrt(2 layers) where the residual stream is written (GPT-2)."});
}

std::string with_model_keys(std::string message, std::string_view sequence_length_key) {
  const std::pair<std::string_view, std::string_view> names[] = {
      {"num_layers", "layers"},
      {"num_kv_heads", "kv_heads"},
      {"num_heads", "heads"},
      {"max_sequence_length", sequence_length_key}};
  for (const auto& [from, to] : names) {
    for (std::size_t at = message.find(from); at != std::string::npos;
         at = message.find(from, at + to.size())) {
      message.replace(at, from.size(), to);
    }
  }
  return message;
}

}  // namespace tenax::configs
