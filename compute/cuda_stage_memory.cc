#include "compute/cuda_stage_memory.h"

#include <algorithm>

#include "compute/stage_layout.h"

namespace tenax::compute {
namespace {

constexpr std::int64_t kFloatBytes = 4;

/// Tokens whose logits exist at once. A function of the model and its cut alone, since the
/// gradient's sum is cut there.
std::int64_t chunk_tokens(std::int64_t logits_row_bytes) {
  constexpr std::int64_t kLogitsBytes = std::int64_t{512} << 20;
  constexpr std::int64_t kStep = 128;
  return std::clamp<std::int64_t>(kLogitsBytes / logits_row_bytes / kStep * kStep, kStep, 32768);
}

}  // namespace

CudaSizes::CudaSizes(const ModelOptions& o, const BatchShape& shape, const TensorPart& part,
                     std::int64_t element_bytes)
    : element(element_bytes),
      tokens(std::int64_t{shape.microbatch_size} * shape.sequence_length),
      own(token_rows(tokens, part)),
      stream_rows(max_token_rows(tokens, part)),
      shared(part.size > 1),
      length(shape.sequence_length),
      width(o.width),
      heads(o.num_heads),
      kv_heads(o.num_kv_heads),
      head_dim(o.head_dim),
      query_width(o.num_heads * o.head_dim),
      qkv_width((o.num_heads + 2 * o.num_kv_heads) * o.head_dim),
      ffn(o.ffn_width),
      hidden(is_gated(o.activation) ? 2 * o.ffn_width : o.ffn_width),
      vocabulary(o.padded_vocabulary_size),
      logits_ld((o.padded_vocabulary_size + 7) / 8 * 8),
      head_chunk(std::min(tokens, chunk_tokens(logits_ld * element_bytes))) {}

void CudaLayer::place(ByteArena& arena, const ModelOptions& o, const CudaSizes& s,
                      Recompute recompute) {
  const bool keeps_all = recompute == Recompute::kNone;
  const bool has_mean = o.norm == NormKind::kLayerNorm;
  const bool post = o.norm_placement == NormPlacement::kPost;
  if (post && keeps_all && s.shared) whole_input = arena.take(s.rows(s.width));
  if (has_mean) attention_mean = arena.floats(s.stream_rows);
  attention_rstd = arena.floats(s.stream_rows);
  if (keeps_all) attention_normed = arena.take(s.rows(s.width));
  qkv = arena.take(s.rows(s.qkv_width));
  if (o.qk_norm) {
    raw_qkv = arena.take(s.rows(s.qkv_width));
    if (has_mean) q_mean = arena.floats(s.tokens * s.heads);
    if (has_mean) k_mean = arena.floats(s.tokens * s.kv_heads);
    q_rstd = arena.floats(s.tokens * s.heads);
    k_rstd = arena.floats(s.tokens * s.kv_heads);
  }
  attended = arena.take(s.rows(s.query_width));
  log_sum = arena.floats(s.tokens * s.heads);
  if (!o.parallel_block) {
    middle = arena.take(s.stream());
    if (has_mean) ffn_mean = arena.floats(s.stream_rows);
    ffn_rstd = arena.floats(s.stream_rows);
    if (post) ffn_sum = arena.take(s.stream());
    if (!post && keeps_all) ffn_normed = arena.take(s.rows(s.width));
  }
  hidden = arena.take(s.rows(s.hidden));
  if (keeps_all) activated = arena.take(s.rows(s.ffn));
}

void CudaSlot::place(ByteArena& arena, const ModelOptions& o, const StageSpec& spec,
                     const CudaSizes& s, Recompute recompute) {
  const auto num_layers = static_cast<std::size_t>(spec.end_layer - spec.first_layer);
  if (spec.has_embedding && o.embedding_norm) {
    embedded = arena.take(s.stream());
    if (o.norm == NormKind::kLayerNorm) embedded_mean = arena.floats(s.stream_rows);
    embedded_rstd = arena.floats(s.stream_rows);
  }
  inputs.resize(num_layers + (spec.has_head ? 1 : 0));
  for (std::byte*& input : inputs) input = arena.take(s.stream());
  if (recompute == Recompute::kFull) return;
  layers.resize(num_layers);
  for (CudaLayer& layer : layers) layer.place(arena, o, s, recompute);
}

void CudaWorkspace::place(ByteArena& arena, const ModelOptions& o, const StageSpec& spec,
                          const CudaSizes& s, const StageSettings& settings) {
  layer.place(arena, o, s);
  for (std::byte*& x : stream) x = arena.take(s.stream());
  normed = arena.take(s.rows(s.width));
  if (o.norm == NormKind::kLayerNorm) mean = arena.floats(s.stream_rows);
  rstd = arena.floats(s.stream_rows);
  grad = arena.take(s.stream());
  dnormed = arena.take(s.stream());
  dattended = arena.take(s.rows(s.query_width));
  dqkv = arena.take(s.rows(s.qkv_width));
  dactivated = arena.take(s.rows(s.ffn));
  dhidden = arena.take(s.rows(s.hidden));
  const auto integers = [&](std::int64_t n) {
    return reinterpret_cast<std::int32_t*>(arena.take(n * 4));
  };
  const auto doubles = [&](std::int64_t n) { return reinterpret_cast<double*>(arena.take(n * 8)); };
  places = integers(s.tokens);
  if (settings.dropout.any())
    samples = reinterpret_cast<std::int64_t*>(arena.take(s.tokens / s.length * 8));
  if (spec.has_head) {
    logits = arena.take(s.head_chunk * s.logits_ld * s.element);
    loss = doubles(s.tokens);
    z_term = doubles(s.tokens);
    if (s.shared) parts = doubles(2 * s.head_chunk);
    if (s.shared) log_sums = doubles(s.head_chunk);
    targets = integers(s.tokens);
  }
  if (spec.has_embedding) {
    tokens = integers(s.tokens);
    bucket_tokens = integers(s.tokens);
    bucket_begins = integers(s.tokens + 1);
    bucket_order = integers(s.tokens);
  }
  const bool drops = settings.dropout.residual > 0;
  if (!spec.has_embedding || !spec.has_head || s.shared || drops)
    sum = arena.floats(s.tokens * s.width);
  if (s.shared || drops) dprojected = arena.take(s.rows(s.width));
  if (o.positions == PositionKind::kRope) {
    cosine = arena.floats(o.max_sequence_length * (o.head_dim / 2));
    sine = arena.floats(o.max_sequence_length * (o.head_dim / 2));
  }
  if (o.positions == PositionKind::kAlibi) slopes = arena.floats(o.num_heads);
}

std::int64_t cuda_copy_bytes(const StageLayout& layout, const StageSettings& settings) {
  return is_bfloat16(settings) ? 2 * layout.values_size : 0;
}

StageMemory plan_cuda_memory(const ModelOptions& o, const StageSpec& spec, const BatchShape& shape,
                             const StageSettings& settings) {
  const StageLayout layout = lay_out_stage(o, spec);
  const std::int64_t element = is_bfloat16(settings) ? 2 : kFloatBytes;
  const ModelOptions local = local_options(o, spec.tensor);
  const CudaSizes sizes(local, shape, spec.tensor, element);
  StageMemory memory;
  memory.values = layout.values_size * kFloatBytes;
  memory.gradient = layout.gradient_size * kFloatBytes;
  ByteArena slot_arena;
  CudaSlot().place(slot_arena, local, spec, sizes, settings.recompute);
  memory.slot = slot_arena.used();
  ByteArena workspace_arena;
  CudaWorkspace().place(workspace_arena, local, spec, sizes, settings);
  memory.workspace = workspace_arena.used() + cuda_copy_bytes(layout, settings);
  return memory;
}

TokenBuckets token_buckets(const std::vector<std::int32_t>& tokens, std::int32_t first,
                           std::int32_t count) {
  TokenBuckets b;
  const auto token = [&](std::int32_t row) {
    return tokens[static_cast<std::size_t>(row)] - first;
  };
  for (std::int32_t row = 0; row < static_cast<std::int32_t>(tokens.size()); ++row)
    if (token(row) >= 0 && token(row) < count) b.order.push_back(row);
  std::ranges::stable_sort(b.order, {}, token);
  for (std::size_t i = 0; i < b.order.size(); ++i) {
    const std::int32_t t = token(b.order[i]);
    if (!b.tokens.empty() && b.tokens.back() == t) continue;
    b.tokens.push_back(t);
    b.begins.push_back(static_cast<std::int32_t>(i));
  }
  b.begins.push_back(static_cast<std::int32_t>(b.order.size()));
  return b;
}

}  // namespace tenax::compute
