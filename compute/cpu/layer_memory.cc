#include "compute/cpu/layer_memory.h"

namespace tenax::compute::cpu {
namespace {

/// Sizes in floats of the tensors that layers keep.
struct Sizes {
  Sizes(const ModelOptions& o, const BatchShape& shape, const TensorPart& part)
      : tokens(static_cast<std::size_t>(shape.microbatch_size) *
               static_cast<std::size_t>(shape.sequence_length)),
        rows(static_cast<std::size_t>(max_token_rows(static_cast<std::int64_t>(tokens), part))),
        stream(rows * static_cast<std::size_t>(o.width)),
        width(tokens * static_cast<std::size_t>(o.width)),
        query_heads(tokens * static_cast<std::size_t>(o.num_heads)),
        kv_heads(tokens * static_cast<std::size_t>(o.num_kv_heads)),
        query(query_heads * static_cast<std::size_t>(o.head_dim)),
        kv(kv_heads * static_cast<std::size_t>(o.head_dim)),
        ffn(tokens * static_cast<std::size_t>(o.ffn_width)) {}
  std::size_t tokens, rows, stream, width, query_heads, kv_heads, query, kv, ffn;
};

}  // namespace

LayerActivations LayerActivations::place(Arena& arena, const ModelOptions& o,
                                         const BatchShape& shape, const TensorPart& part,
                                         Recompute recompute) {
  const bool keeps_all = recompute == Recompute::kNone;
  const Sizes size(o, shape, part);
  const bool has_mean = o.norm == NormKind::kLayerNorm;
  const bool post = o.norm_placement == NormPlacement::kPost;
  LayerActivations a;
  if (post && part.size > 1 && keeps_all) a.whole_input = arena.take(size.width);
  if (has_mean) a.attention_mean = arena.take(size.rows);
  a.attention_rstd = arena.take(size.rows);
  if (keeps_all) a.attention_normed = arena.take(size.width);
  a.q = arena.take(size.query);
  a.k = arena.take(size.kv);
  a.v = arena.take(size.kv);
  if (o.qk_norm) {
    a.raw_q = arena.take(size.query);
    a.raw_k = arena.take(size.kv);
    if (has_mean) a.q_mean = arena.take(size.query_heads);
    if (has_mean) a.k_mean = arena.take(size.kv_heads);
    a.q_rstd = arena.take(size.query_heads);
    a.k_rstd = arena.take(size.kv_heads);
  }
  a.attended = arena.take(size.query);
  a.log_sum = arena.take(size.query_heads);
  if (!o.parallel_block) {
    a.middle = arena.take(size.stream);
    if (has_mean) a.ffn_mean = arena.take(size.rows);
    a.ffn_rstd = arena.take(size.rows);
    if (post) a.ffn_sum = arena.take(size.stream);
    if (!post && keeps_all) a.ffn_normed = arena.take(size.width);
  }
  a.up = arena.take(size.ffn);
  if (is_gated(o.activation)) a.gate = arena.take(size.ffn);
  if (keeps_all) a.activated = arena.take(size.ffn);
  return a;
}

BlockWorkspace BlockWorkspace::place(Arena& arena, const ModelOptions& o, const BatchShape& shape,
                                     const TensorPart& part, const StageSettings& settings) {
  const Sizes size(o, shape, part);
  BlockWorkspace w;
  w.dnormed = arena.take(size.width);
  w.dattended = arena.take(size.query);
  w.dq = arena.take(size.query);
  w.dk = arena.take(size.kv);
  w.dv = arena.take(size.kv);
  w.dhidden = arena.take(size.ffn);
  if (is_gated(o.activation)) w.dgate = arena.take(size.ffn);
  if (settings.dropout.residual > 0 || part.size > 1) w.projected = arena.take(size.width);
  for (int i = 0; i < settings.num_threads; ++i)
    w.attention.push_back(AttentionWorkspace::place(arena, shape.sequence_length));
  return w;
}

}  // namespace tenax::compute::cpu
