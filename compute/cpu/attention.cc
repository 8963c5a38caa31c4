#include "compute/cpu/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tenax::compute::cpu {
namespace {

/// Where one block of query rows of one head lies.
struct RowBlock {
  std::int64_t first = 0;  ///< its first query position
  std::int64_t rows = 0;
  std::int64_t keys = 0;       ///< that any of its rows sees, up to its last position
  std::int64_t first_key = 0;  ///< position of the first of them
  std::int64_t q_at = 0;       ///< offset of its first element in q, out and their gradients
  std::int64_t kv_at = 0;
  std::int64_t log_sum_at = 0;
  float slope = 0;
  const std::int32_t* positions = nullptr;  ///< of its rows
  std::int64_t sample = 0;                  ///< in the batch
  std::int64_t head = 0;
};

/// Calls f(block, thread) for every block of query rows. One task is all query heads that share a
/// key/value head, in order, so that the gradients of keys and values are summed in one order.
template <class F>
void for_blocks(ThreadPool& pool, const AttentionShape& s, F&& f) {
  const std::int64_t group = s.heads / s.kv_heads;
  pool.run(static_cast<std::uint32_t>(s.batch * s.kv_heads), [&](std::uint32_t task, int thread) {
    const std::int64_t b = task / s.kv_heads;
    const std::int64_t kv_head = task % s.kv_heads;
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h)
      for (std::int64_t first = 0; first < s.length; first += kQueryBlock) {
        RowBlock block;
        block.first = first;
        block.sample = b;
        block.head = h;
        block.rows = std::min(kQueryBlock, s.length - first);
        if (s.positions != nullptr) {
          // A later row's document begins later: the first row sees furthest back.
          block.positions = s.positions + b * s.length + first;
          block.first_key = first - block.positions[0];
        }
        block.keys = first + block.rows - block.first_key;
        block.q_at = ((b * s.length + first) * s.heads + h) * s.head_dim;
        block.kv_at = ((b * s.length + block.first_key) * s.kv_heads + kv_head) * s.head_dim;
        block.log_sum_at = (b * s.heads + h) * s.length + first;
        block.slope = s.slopes != nullptr ? s.slopes[h] : 0.0f;
        f(block, static_cast<std::size_t>(thread));
      }
  });
}

SoftmaxCall softmax_call(const AttentionShape& s, const RowBlock& block, float* scores,
                         float* log_sum) {
  SoftmaxCall call;
  call.rows = block.rows;
  call.keys = block.keys;
  call.first_query = block.first - block.first_key;
  call.positions = block.positions;
  call.first_column = static_cast<std::uint32_t>(block.first_key);
  call.scores = scores;
  call.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  call.slope = block.slope;
  call.log_sum = log_sum + block.log_sum_at;
  return call;
}

/// Dropout of the block's rows into `rows`; nullptr where there is none.
const DropoutRow* dropout_rows(const AttentionShape& s, const RowBlock& block,
                               DropoutRow (&rows)[kQueryBlock]) {
  if (s.dropout == nullptr || !s.dropout->active()) return nullptr;
  for (std::int64_t r = 0; r < block.rows; ++r)
    rows[r] = dropout_row(
        *s.dropout, s.samples[block.sample],
        static_cast<std::uint64_t>((s.first_head + block.head) * s.length + block.first + r));
  return rows;
}

}  // namespace

AttentionWorkspace AttentionWorkspace::place(Arena& arena, std::int64_t max_length) {
  AttentionWorkspace w;
  const auto block = static_cast<std::size_t>(kQueryBlock);
  w.scores = arena.take(block * static_cast<std::size_t>(max_length));
  w.dp = arena.take(block * static_cast<std::size_t>(max_length));
  w.delta = arena.take(block);
  return w;
}

void attention_forward(Kernels& kernels, const AttentionShape& s, const AttentionTensors& t,
                       const std::vector<AttentionWorkspace>& workspaces) {
  const std::int64_t q_stride = s.heads * s.head_dim;
  const std::int64_t kv_stride = s.kv_heads * s.head_dim;
  for_blocks(kernels.pool, s, [&](const RowBlock& block, std::size_t thread) {
    const AttentionWorkspace& w = workspaces[thread];
    Gemm& gemm = kernels.gemms[thread];
    const Matrix scores{w.scores, block.keys};
    gemm.nt({block.rows, block.keys, s.head_dim}, {t.q + block.q_at, q_stride},
            {t.k + block.kv_at, kv_stride}, scores, Write::kOverwrite);
    DropoutRow rows[kQueryBlock];
    SoftmaxCall call = softmax_call(s, block, w.scores, t.log_sum);
    call.dropout = dropout_rows(s, block, rows);
    kernels.ops.softmax_forward(call);
    gemm.nn({block.rows, s.head_dim, block.keys}, scores, {t.v + block.kv_at, kv_stride},
            {t.out + block.q_at, q_stride}, Write::kOverwrite);
  });
}

void attention_backward(Kernels& kernels, const AttentionShape& s, const AttentionTensors& t,
                        const AttentionGradients& g,
                        const std::vector<AttentionWorkspace>& workspaces) {
  const std::int64_t q_stride = s.heads * s.head_dim;
  const std::int64_t kv_stride = s.kv_heads * s.head_dim;
  const std::int64_t kv_size = s.batch * s.length * kv_stride;
  std::fill_n(g.dk, kv_size, 0.0f);
  std::fill_n(g.dv, kv_size, 0.0f);
  for_blocks(kernels.pool, s, [&](const RowBlock& block, std::size_t thread) {
    const AttentionWorkspace& w = workspaces[thread];
    Gemm& gemm = kernels.gemms[thread];
    const Matrix scores{w.scores, block.keys};
    const Matrix dp{w.dp, block.keys};
    const ConstMatrix q{t.q + block.q_at, q_stride};
    const ConstMatrix k{t.k + block.kv_at, kv_stride};
    const ConstMatrix dout{g.dout + block.q_at, q_stride};
    const GemmShape row_by_key{block.rows, block.keys, s.head_dim};
    gemm.nt(row_by_key, q, k, scores, Write::kOverwrite);
    gemm.nt(row_by_key, dout, {t.v + block.kv_at, kv_stride}, dp, Write::kOverwrite);
    kernels.ops.row_dots(block.rows, s.head_dim, q_stride, dout.data, t.out + block.q_at, w.delta);
    SoftmaxCall call = softmax_call(s, block, w.scores, t.log_sum);
    DropoutRow rows[kQueryBlock];
    call.dropout = dropout_rows(s, block, rows);
    call.dp = w.dp;
    call.delta = w.delta;
    kernels.ops.softmax_backward(call);
    gemm.nn({block.rows, s.head_dim, block.keys}, dp, k, {g.dq + block.q_at, q_stride},
            Write::kOverwrite);
    const GemmShape key_by_dim{block.keys, s.head_dim, block.rows};
    gemm.tn(key_by_dim, dp, q, {g.dk + block.kv_at, kv_stride}, Write::kAdd);
    gemm.tn(key_by_dim, scores, dout, {g.dv + block.kv_at, kv_stride}, Write::kAdd);
  });
}

float alibi_slope(std::int64_t h, std::int64_t num_heads) {
  const auto below =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(num_heads)));
  const double exponent =
      h < below ? 8.0 * static_cast<double>(h + 1) / static_cast<double>(below)
                : 8.0 * static_cast<double>(2 * (h - below) + 1) / static_cast<double>(2 * below);
  return static_cast<float>(std::exp2(-exponent));
}

}  // namespace tenax::compute::cpu
