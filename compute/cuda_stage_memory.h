// Where the activations and the workspace of a stage lie on a GPU, and how many bytes they are.
// Views into memory that the stage owns; "of type" means float32 or BF16, as the stage computes. R:
// the rows of B T that this rank has of the residual stream (tensor_part.h, token_rows()).
// Options are local_options() of resolved() ones but for plan_cuda_memory().
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "compute/model_options.h"
#include "compute/stage.h"
#include "compute/stage_layout.h"
#include "compute/tensor_part.h"

namespace tenax::compute {

/// Deals out pieces of a block of device memory on 256-byte boundaries. Without a block it only
/// counts.
class ByteArena {
 public:
  explicit ByteArena(std::byte* base = nullptr) : base_(base) {}
  std::byte* take(std::int64_t bytes) {
    constexpr std::int64_t kAlign = 256;
    const std::int64_t at = used_;
    used_ += (bytes + kAlign - 1) / kAlign * kAlign;
    return base_ == nullptr ? nullptr : base_ + at;
  }
  float* floats(std::int64_t n) { return reinterpret_cast<float*>(take(n * 4)); }
  std::int64_t used() const { return used_; }

 private:
  std::byte* base_;
  std::int64_t used_ = 0;
};

/// Sizes that everything below is made of.
struct CudaSizes {
  CudaSizes(const ModelOptions& options, const BatchShape& shape, const TensorPart& part,
            std::int64_t element_bytes);
  std::int64_t element;      ///< bytes of an element
  std::int64_t tokens;       // B * T
  TokenRows own;             ///< of them, whose rows of the residual stream this rank has
  std::int64_t stream_rows;  // R: the most that any rank has of them
  bool shared;               ///< with other ranks
  std::int64_t length;       // T
  std::int64_t width;        // C
  std::int64_t heads;        // H
  std::int64_t kv_heads;     // K
  std::int64_t head_dim;     // D
  std::int64_t query_width;  // H * D
  std::int64_t qkv_width;    // (H + 2 K) * D: one row of the packed buffer
  std::int64_t ffn;          // F
  std::int64_t hidden;       // F, or 2 F with a gate: one row of [up | gate]
  std::int64_t vocabulary;   // P, the padded one
  std::int64_t logits_ld;    // P rounded up to 16 bytes
  std::int64_t head_chunk;   ///< tokens whose logits exist at once

  std::int64_t rows(std::int64_t n) const { return tokens * n * element; }
  std::int64_t stream() const { return stream_rows * width * element; }
};

/// What backward needs of one layer besides its input.
struct CudaLayer {
  std::byte* whole_input = nullptr;       // (B, T, C) of type; with norm placement post where ranks
                                          // share the layer
  float* attention_mean = nullptr;        // (R)
  float* attention_rstd = nullptr;        // (R)
  std::byte* attention_normed = nullptr;  // (B, T, C) of type
  std::byte* qkv = nullptr;               // (B, T, H + 2 K, D) of type, as attention reads it
  std::byte* raw_qkv = nullptr;           // the same before qk_norm
  float* q_mean = nullptr;                // (B, T, H)
  float* q_rstd = nullptr;                // (B, T, H)
  float* k_mean = nullptr;                // (B, T, K)
  float* k_rstd = nullptr;                // (B, T, K)
  std::byte* attended = nullptr;          // (B, T, H, D) of type
  float* log_sum = nullptr;               // (B, H, T)
  std::byte* middle = nullptr;            // (R, C) of type: residual stream after attention
  float* ffn_mean = nullptr;              // (R)
  float* ffn_rstd = nullptr;              // (R)
  std::byte* ffn_normed = nullptr;        // (B, T, C) of type; with norm placement pre; kSelective:
                                          // made again, as are attention_normed, activated and
                                          // whole_input
  std::byte* ffn_sum = nullptr;           // (R, C) of type; with norm placement post
  std::byte* hidden = nullptr;            // (B, T, [up | gate]) of type, before the activation
  std::byte* activated = nullptr;         // (B, T, F) of type

  void place(ByteArena& arena, const ModelOptions& options, const CudaSizes& sizes,
             Recompute recompute = Recompute::kNone);
  /// With Recompute::kSelective: where what is made again lives, which layers share.
  void borrow(const CudaLayer& shared) {
    whole_input = shared.whole_input;
    attention_normed = shared.attention_normed;
    ffn_normed = shared.ffn_normed;
    activated = shared.activated;
  }
};

/// What stays between forward and backward of one microbatch.
struct CudaSlot {
  std::vector<std::int32_t> tokens;   // (B, T)
  std::vector<std::int32_t> targets;  // (B, T)
  std::vector<std::int32_t> places;   // (B, T) in the documents, or empty
  std::vector<std::int64_t> samples;  // (B) absolute positions, with dropout
  std::byte* embedded = nullptr;      // (R, C) of type, before the embedding norm
  float* embedded_mean = nullptr;     // (R)
  float* embedded_rstd = nullptr;     // (R)
  std::vector<std::byte*>
      inputs;  // (R, C) of type, of each layer, and at the head of the final norm
  std::vector<CudaLayer> layers;  ///< empty with full recomputation
  LossSum loss;
  std::vector<double> sample_losses;  // (B)

  void place(ByteArena& arena, const ModelOptions& options, const StageSpec& spec,
             const CudaSizes& sizes, Recompute recompute);
};

/// Memory that every microbatch passes through.
struct CudaWorkspace {
  CudaLayer layer;                  ///< of the layer that runs without a slot
  std::byte* stream[2] = {};        // (R, C) of type: residual stream of evaluation, alternating
  std::byte* normed = nullptr;      // (B, T, C) of type, after the final norm
  float* mean = nullptr;            // (R) of the final norm
  float* rstd = nullptr;            // (R)
  std::byte* grad = nullptr;        // (R, C) of type: gradient of the residual stream
  std::byte* dnormed = nullptr;     // (R, C) of type
  std::byte* dattended = nullptr;   // (B, T, H, D) of type
  std::byte* dqkv = nullptr;        // (B, T, H + 2 K, D) of type
  std::byte* dactivated = nullptr;  // (B, T, F) of type
  std::byte* dhidden = nullptr;     // (B, T, [up | gate]) of type
  std::byte* logits = nullptr;      // (head_chunk, logits_ld) of type
  double* loss = nullptr;           // (B, T)
  double* z_term = nullptr;         // (B, T)
  std::int32_t* tokens = nullptr;   // (B, T)
  std::int32_t* targets = nullptr;  // (B, T)
  std::int32_t* bucket_tokens = nullptr;  // (B, T): distinct tokens of the microbatch
  std::int32_t* bucket_begins = nullptr;  // (B T + 1)
  std::int32_t* bucket_order = nullptr;   // (B, T)
  std::int32_t* places = nullptr;         // (B, T) in the documents
  std::int64_t* samples = nullptr;        // (B) absolute positions, with dropout
  float* sum = nullptr;  // (B, T, C) in float32: between neighbouring stages, and what is summed
                         // over ranks or dropped before it joins the residual stream
  std::byte* dprojected = nullptr;  // (B, T, C) of type: a projection's gradient, with dropout or
                                    // where ranks share the stage; what they look up too
  double* parts = nullptr;          // (head_chunk, 2) of the cross-entropy, where ranks share it
  double* log_sums = nullptr;       // (head_chunk)
  float* cosine = nullptr;          // (max_sequence_length, D / 2) of RoPE
  float* sine = nullptr;            // (max_sequence_length, D / 2)
  float* slopes = nullptr;          // (H) of ALiBi

  void place(ByteArena& arena, const ModelOptions& options, const StageSpec& spec,
             const CudaSizes& sizes, const StageSettings& settings);
};

/// On a GPU bf16 is the type of activations and of what products read, see docs/numerics.md.
inline bool is_bfloat16(const StageSettings& settings) {
  return settings.precision == Precision::kBf16;
}

/// Bytes of the weights' copy in BF16; 0 where the stage computes in float32.
std::int64_t cuda_copy_bytes(const StageLayout& layout, const StageSettings& settings);

/// Bytes of a stage on a GPU; what the libraries take for themselves comes on top. `options` are
/// resolved() and of the whole model.
StageMemory plan_cuda_memory(const ModelOptions& options, const StageSpec& spec,
                             const BatchShape& shape, const StageSettings& settings);

/// Those of `tokens` in [first, first + count), less `first`, sorted by value, rows of one token in
/// ascending order: how the embedding's gradient is gathered without atomics.
struct TokenBuckets {
  std::vector<std::int32_t> tokens;  ///< distinct, ascending
  std::vector<std::int32_t> begins;  ///< one more than tokens
  std::vector<std::int32_t> order;   ///< rows
};
TokenBuckets token_buckets(const std::vector<std::int32_t>& tokens, std::int32_t first,
                           std::int32_t count);

}  // namespace tenax::compute
