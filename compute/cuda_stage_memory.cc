#include "compute/cuda_stage_memory.h"

#include <algorithm>
#include <numeric>

#include "compute/stage_layout.h"

namespace tenax::compute {
namespace {

constexpr std::int64_t kFloatBytes = 4;

/// Tokens whose logits exist at once. A function of the model alone, since the gradient's sum is
/// cut there.
std::int64_t chunk_tokens(std::int64_t logits_row_bytes) {
  constexpr std::int64_t kLogitsBytes = std::int64_t{512} << 20;
  constexpr std::int64_t kStep = 128;
  return std::clamp<std::int64_t>(kLogitsBytes / logits_row_bytes / kStep * kStep, kStep, 32768);
}

}  // namespace

CudaSizes::CudaSizes(const ModelOptions& o, const BatchShape& shape, std::int64_t element_bytes)
    : element(element_bytes),
      tokens(std::int64_t{shape.microbatch_size} * shape.sequence_length),
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

void CudaLayer::place(ByteArena& arena, const ModelOptions& o, const CudaSizes& s) {
  const bool has_mean = o.norm == NormKind::kLayerNorm;
  const bool post = o.norm_placement == NormPlacement::kPost;
  if (has_mean) attention_mean = arena.floats(s.tokens);
  attention_rstd = arena.floats(s.tokens);
  attention_normed = arena.take(s.rows(s.width));
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
    middle = arena.take(s.rows(s.width));
    if (has_mean) ffn_mean = arena.floats(s.tokens);
    ffn_rstd = arena.floats(s.tokens);
    (post ? ffn_sum : ffn_normed) = arena.take(s.rows(s.width));
  }
  hidden = arena.take(s.rows(s.hidden));
  activated = arena.take(s.rows(s.ffn));
}

void CudaSlot::place(ByteArena& arena, const ModelOptions& o, const StageSpec& spec,
                     const CudaSizes& s, Recompute recompute) {
  const auto num_layers = static_cast<std::size_t>(spec.end_layer - spec.first_layer);
  if (spec.has_embedding && o.embedding_norm) {
    embedded = arena.take(s.rows(s.width));
    if (o.norm == NormKind::kLayerNorm) embedded_mean = arena.floats(s.tokens);
    embedded_rstd = arena.floats(s.tokens);
  }
  inputs.resize(num_layers + (spec.has_head ? 1 : 0));
  for (std::byte*& input : inputs) input = arena.take(s.rows(s.width));
  if (recompute == Recompute::kFull) return;
  layers.resize(num_layers);
  for (CudaLayer& layer : layers) layer.place(arena, o, s);
}

void CudaWorkspace::place(ByteArena& arena, const ModelOptions& o, const StageSpec& spec,
                          const CudaSizes& s) {
  layer.place(arena, o, s);
  for (std::byte*& x : stream) x = arena.take(s.rows(s.width));
  normed = arena.take(s.rows(s.width));
  if (o.norm == NormKind::kLayerNorm) mean = arena.floats(s.tokens);
  rstd = arena.floats(s.tokens);
  grad = arena.take(s.rows(s.width));
  dnormed = arena.take(s.rows(s.width));
  dattended = arena.take(s.rows(s.query_width));
  dqkv = arena.take(s.rows(s.qkv_width));
  dactivated = arena.take(s.rows(s.ffn));
  dhidden = arena.take(s.rows(s.hidden));
  const auto integers = [&](std::int64_t n) {
    return reinterpret_cast<std::int32_t*>(arena.take(n * 4));
  };
  if (spec.has_head) {
    logits = arena.take(s.head_chunk * s.logits_ld * s.element);
    loss = reinterpret_cast<double*>(arena.take(s.tokens * 8));
    z_term = reinterpret_cast<double*>(arena.take(s.tokens * 8));
    targets = integers(s.tokens);
  }
  if (spec.has_embedding) {
    tokens = integers(s.tokens);
    bucket_tokens = integers(s.tokens);
    bucket_begins = integers(s.tokens + 1);
    bucket_order = integers(s.tokens);
  }
  if (!spec.has_embedding || !spec.has_head) boundary = arena.floats(s.tokens * s.width);
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
  const CudaSizes sizes(o, shape, element);
  StageMemory memory;
  memory.values = layout.values_size * kFloatBytes;
  memory.gradient = layout.gradient_size * kFloatBytes;
  ByteArena slot_arena;
  CudaSlot().place(slot_arena, o, spec, sizes, settings.recompute);
  memory.slot = slot_arena.used();
  ByteArena workspace_arena;
  CudaWorkspace().place(workspace_arena, o, spec, sizes);
  memory.workspace = workspace_arena.used() + cuda_copy_bytes(layout, settings);
  return memory;
}

TokenBuckets token_buckets(const std::vector<std::int32_t>& tokens) {
  TokenBuckets b;
  b.order.resize(tokens.size());
  std::iota(b.order.begin(), b.order.end(), 0);
  const auto token = [&](std::int32_t row) { return tokens[static_cast<std::size_t>(row)]; };
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
