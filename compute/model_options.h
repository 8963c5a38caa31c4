// What a decoder-only transformer is made of. Plain values: configs/ fills them, problems() judges
// them, the rest of the engine reads them. Letters used for shapes in this room: B sequences of a
// microbatch, T tokens of a sequence, C width, H query heads, K key/value heads, D head_dim, F
// ffn_width, V vocabulary, P padded vocabulary, L layers. Value type.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tenax::compute {

enum class NormKind : std::uint8_t {
  kLayerNorm,  ///< Ba, Kiros, Hinton, arXiv:1607.06450
  kRmsNorm,    ///< Zhang, Sennrich, arXiv:1910.07467
};

enum class NormPlacement : std::uint8_t {
  kPre,   ///< x + f(norm(x)), and a final norm before the output (GPT-2)
  kPost,  ///< norm(x + f(x)), no final norm (the first transformer)
};

enum class PositionKind : std::uint8_t {
  kNone,
  kLearned,  ///< one trained vector a position, added to the token's
  kRope,     ///< rotation of neighbouring pairs of q and k (Su et al., arXiv:2104.09864)
  kAlibi,    ///< linear biases on the scores (Press, Smith, Lewis, arXiv:2108.12409)
};

enum class ActivationKind : std::uint8_t {
  kGeluErf,   ///< x * Phi(x)
  kGeluTanh,  ///< GPT-2's approximation of it
  kRelu,
  kSwiglu,  ///< silu(gate) * up (Shazeer, arXiv:2002.05202)
  kGeglu,   ///< gelu(gate) * up, with the erf form
};

/// True for the activations that multiply two projections and so own a "ffn.gate" matrix.
constexpr bool is_gated(ActivationKind a) {
  return a == ActivationKind::kSwiglu || a == ActivationKind::kGeglu;
}

/// A causal decoder. The defaults are GPT-2's choices at a toy size. A field that says "0 = ..." is
/// filled by resolved().
struct ModelOptions {
  std::int64_t vocabulary_size = 256;
  std::int64_t padded_vocabulary_size = 0;  ///< rows of the embedding; 0 = vocabulary_size
  std::int64_t max_sequence_length = 128;
  std::int64_t width = 64;
  std::int64_t num_layers = 2;
  std::int64_t num_heads = 4;
  std::int64_t num_kv_heads =
      0;  ///< 1 = multi-query, fewer than num_heads = grouped-query; 0 = num_heads
  std::int64_t head_dim = 0;   ///< 0 = width / num_heads
  std::int64_t ffn_width = 0;  ///< 0 = 4 * width

  NormKind norm = NormKind::kLayerNorm;
  NormPlacement norm_placement = NormPlacement::kPre;
  double norm_epsilon = 1e-5;
  PositionKind positions = PositionKind::kLearned;
  double rope_theta = 10000;
  ActivationKind activation = ActivationKind::kGeluTanh;
  bool biases = true;           ///< of every linear map and LayerNorm
  bool parallel_block = false;  ///< x + attention(norm(x)) + ffn(norm(x)) with one norm (PaLM)
  bool embedding_norm = false;  ///< a norm right after the embedding (BLOOM)
  bool tied_output = true;      ///< logits use the token embedding's matrix
  bool qk_norm = false;         ///< a norm over head_dim on q and k, before RoPE
  double embedding_scale = 1;   ///< multiplies the token vectors
  double logit_scale = 1;       ///< multiplies the logits
  double z_loss = 0;            ///< adds z_loss * log(sum of exp(logits))^2 for each target (PaLM)

  double init_std = 0.02;
  /// Divides init_std by sqrt(2 * num_layers) for the two projections that write to the residual
  /// stream (GPT-2).
  bool scale_residual_init = true;

  bool operator==(const ModelOptions&) const = default;
};

/// The same options with every "0 = ..." field filled in.
ModelOptions resolved(ModelOptions options);

/// Everything that is wrong with the options, one sentence each; empty when the model can be built.
std::vector<std::string> problems(const ModelOptions& options);

}  // namespace tenax::compute
