// Causal attention of one layer, query rows in blocks: scores exist for kQueryBlock rows of one
// head at a time, and backward makes them anew from the stored log-sums (Dao et al.,
// "FlashAttention", arXiv:2205.14135, with row blocks only, since a row of scores fits in the cache
// here). Free functions over the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/cpu/linear.h"
#include "compute/dropout.h"

namespace tenax::compute::cpu {

/// Multiple of every micro-kernel's rows.
inline constexpr std::int64_t kQueryBlock = 96;

struct AttentionShape {
  std::int64_t batch = 0;         // B
  std::int64_t length = 0;        // T
  std::int64_t heads = 0;         // H
  std::int64_t kv_heads = 0;      // K: query head h reads key/value head h / (H / K)
  std::int64_t head_dim = 0;      // D
  const float* slopes = nullptr;  ///< (H) of ALiBi, or nullptr
  /// (B, T) in the documents: a query sees its own document's keys; nullptr: one a sample.
  const std::int32_t* positions = nullptr;
  const DropoutSite* dropout = nullptr;   ///< of the probabilities, or nullptr
  const std::int64_t* samples = nullptr;  ///< (B) absolute positions, with dropout
  std::int64_t first_head = 0;            ///< in the whole model; where dropout's rows begin
};

/// Scratch for one block of rows; each thread has one.
struct AttentionWorkspace {
  float* scores = nullptr;  // (kQueryBlock, T)
  float* dp = nullptr;      // (kQueryBlock, T)
  float* delta = nullptr;   // (kQueryBlock)

  static AttentionWorkspace place(Arena& arena, std::int64_t max_length);
};

struct AttentionTensors {
  const float* q = nullptr;  // (B, T, H, D)
  const float* k = nullptr;  // (B, T, K, D)
  const float* v = nullptr;  // (B, T, K, D)
  float* out = nullptr;      // (B, T, H, D)
  float* log_sum = nullptr;  // (B, H, T)
};

struct AttentionGradients {
  const float* dout = nullptr;  // (B, T, H, D)
  float* dq = nullptr;          // (B, T, H, D), overwritten like the others
  float* dk = nullptr;          // (B, T, K, D)
  float* dv = nullptr;          // (B, T, K, D)
};

/// out = softmax(Q K^T / sqrt(D) + biases) V under the causal mask; overwrites out and log_sum.
void attention_forward(Kernels& kernels, const AttentionShape& shape, const AttentionTensors& t,
                       const std::vector<AttentionWorkspace>& workspaces);

void attention_backward(Kernels& kernels, const AttentionShape& shape, const AttentionTensors& t,
                        const AttentionGradients& g,
                        const std::vector<AttentionWorkspace>& workspaces);

/// ALiBi's slope of head `h`: a geometric series from 2^(-8/n); where n is not a power of two, the
/// series of the power below and then every other term of the one above.
float alibi_slope(std::int64_t h, std::int64_t num_heads);

}  // namespace tenax::compute::cpu
