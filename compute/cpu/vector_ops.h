// The work between the matrix products, row by row: norms, activations, softmax, cross-entropy,
// AdamW. A table of functions for each build of the kernels; all builds give equal bits (see
// simd16.h). Matrices are row-major; `n` is the length of a row and rows lie `n` apart unless a
// stride is given. Pure functions; deterministic; nothing allocates.
#pragma once

#include <cstdint>

#include "compute/cpu/isa.h"
#include "compute/dropout_row.h"

namespace tenax::compute::cpu {

/// y = (x - mean) * rstd * weight + bias for each row; RMSNorm has no mean.
struct NormCall {
  std::int64_t rows = 0, n = 0;
  const float* x = nullptr;       ///< (rows, n)
  const float* weight = nullptr;  ///< (n)
  const float* bias = nullptr;    ///< (n) or nullptr
  float* mean = nullptr;          ///< (rows); nullptr selects RMSNorm
  float* rstd = nullptr;          ///< (rows)
  float epsilon = 0;              ///< forward only
  float* y = nullptr;             ///< (rows, n); forward overwrites it
  // Backward:
  const float* dy = nullptr;  ///< (rows, n)
  float* dx = nullptr;        ///< (rows, n)
  bool add_dx = false;  ///< add to dx instead of overwriting it; overwriting may be in place of dy
  float* dweight = nullptr;  ///< (n), added to, row after row
  float* dbias = nullptr;    ///< (n) or nullptr, added to
};

enum class Pointwise : std::uint8_t { kGeluErf, kGeluTanh, kRelu, kSilu };

/// out = f(pre), or f(gate) * up with a gate.
struct ActivationCall {
  Pointwise function = Pointwise::kRelu;
  std::int64_t count = 0;
  const float* up = nullptr;    ///< argument of f, or the second factor where there is a gate
  const float* gate = nullptr;  ///< nullptr without a gate
  float* out = nullptr;         ///< forward overwrites it
  // Backward; each overwritten:
  const float* dout = nullptr;
  float* dup = nullptr;    ///< may be dout
  float* dgate = nullptr;  ///< nullptr without a gate
};

/// A block of rows of one head's score matrix S = Q K^T. Row r belongs to query first_query + r and
/// sees keys 0 up to it, or with positions the last positions[r] of them and itself.
struct SoftmaxCall {
  std::int64_t rows = 0, keys = 0, first_query = 0;
  const std::int32_t* positions = nullptr;  ///< (rows) or nullptr
  float* scores =
      nullptr;  ///< (rows, keys); forward: S becomes P, with 0 at unseen keys; backward likewise
  float scale = 1;  ///< multiplies S
  float slope = 0;  ///< ALiBi: slope * (query - key) is subtracted
  float* log_sum =
      nullptr;  ///< (rows): log of the sum of exponentials, written by forward, read by backward
  const DropoutRow* dropout = nullptr;  ///< (rows): drops probabilities; nullptr: none
  std::uint32_t first_column = 0;       ///< dropout's column of key 0
  // Backward: dp (rows, keys) becomes dS = P * (dP - delta) * scale; with dropout `scores` becomes
  // what forward multiplied the values by, and dP is that of the kept probabilities.
  float* dp = nullptr;
  const float* delta = nullptr;  ///< (rows): sum over keys of P * dP
};

/// Cross-entropy of rows of logits. A target of -1 is masked: no loss, zero gradient.
struct CrossEntropyCall {
  std::int64_t rows = 0, n = 0;
  float* logits = nullptr;  ///< (rows, n), before logit_scale
  const std::int32_t* targets = nullptr;
  float logit_scale = 1;
  double z_loss = 0;
  double* loss = nullptr;      ///< (rows), overwritten
  double* z_term = nullptr;    ///< (rows), overwritten
  bool with_gradient = false;  ///< replace the logits by the gradient of loss + z_term
  /// The targets' logits are another rank's: loss is the log of the sum of exponentials alone, and
  /// its gradient the softmax.
  bool target_elsewhere = false;
};

/// Rotates neighbouring pairs of each head: (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin), or
/// back.
struct RopeCall {
  std::int64_t rows = 0;  ///< tokens; row r stands at positions[r], or at r % sequence_length
  std::int64_t sequence_length = 0, heads = 0, head_dim = 0;
  const std::int32_t* positions = nullptr;  ///< (rows) or nullptr
  float* x = nullptr;                       ///< (rows, heads * head_dim), in place
  const float* cosine = nullptr;            ///< (positions, head_dim / 2)
  const float* sine = nullptr;              ///< (positions, head_dim / 2)
  bool inverse = false;
};

/// One AdamW update of `count` elements; see compute/adamw.h.
struct AdamwCall {
  std::int64_t count = 0;
  float* values = nullptr;
  const float* gradient = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  float gradient_scale = 1, beta1 = 0, beta2 = 0, epsilon = 0;
  float step_size = 0;           ///< learning rate / (1 - beta1^t)
  float inverse_sqrt_bias2 = 1;  ///< 1 / sqrt(1 - beta2^t)
  float decay = 0;               ///< learning rate * weight decay
};

struct VectorOps {
  /// Of the rows from `begin` to `end`.
  void (*norm_forward)(const NormCall&, std::int64_t begin, std::int64_t end);
  /// dx of the rows from `begin` to `end`.
  void (*norm_backward)(const NormCall&, std::int64_t begin, std::int64_t end);
  /// dweight and dbias of the columns from `begin` to `end`.
  void (*norm_backward_weight)(const NormCall&, std::int64_t begin, std::int64_t end);
  void (*activation_forward)(const ActivationCall&);
  void (*activation_backward)(const ActivationCall&);
  void (*softmax_forward)(const SoftmaxCall&);
  void (*softmax_backward)(const SoftmaxCall&);
  void (*cross_entropy)(const CrossEntropyCall&);
  void (*rope)(const RopeCall&);
  void (*adamw)(const AdamwCall&);
  /// y += x.
  void (*add)(std::int64_t count, const float* x, float* y);
  /// Drops columns 0 to count of a row.
  void (*dropout)(std::int64_t count, const DropoutRow& row, float* x);
  /// x *= factor.
  void (*scale)(std::int64_t count, float factor, float* x);
  /// out[r] = dot product of row r of x and of y, rows `stride` apart.
  void (*row_dots)(std::int64_t rows, std::int64_t n, std::int64_t stride, const float* x,
                   const float* y, float* out);
  /// The sum of the squares, in double: 16 sums of every sixteenth, then those in halves.
  double (*squares)(std::int64_t count, const float* x);
};

/// The table of one build; `isa` must be available here.
const VectorOps& vector_ops(Isa isa);

// The tables behind vector_ops().
const VectorOps& vector_ops_portable();
const VectorOps& vector_ops_avx2();
const VectorOps& vector_ops_avx512();

}  // namespace tenax::compute::cpu
