#include "compute/cpu/stage_memory.h"

#include <cmath>

#include "compute/gemm.h"
#include "compute/stage_layout.h"

namespace tenax::compute::cpu {

void StageSlot::place(Arena& arena, const ModelOptions& o, const StageSpec& spec,
                      const BatchShape& shape, Recompute recompute) {
  const auto num_layers = static_cast<std::size_t>(spec.end_layer - spec.first_layer);
  const std::size_t rows = num_rows(shape, spec.tensor);
  const std::size_t stream = rows * static_cast<std::size_t>(o.width);
  if (spec.has_embedding && o.embedding_norm) {
    embedded = arena.take(stream);
    if (o.norm == NormKind::kLayerNorm) embedded_mean = arena.take(rows);
    embedded_rstd = arena.take(rows);
  }
  const std::size_t num_inputs = num_layers + (spec.has_head ? 1 : 0);
  for (std::size_t i = 0; i < num_inputs; ++i) inputs.push_back(arena.take(stream));
  if (recompute == Recompute::kFull) return;
  for (std::size_t i = 0; i < num_layers; ++i)
    layers.push_back(LayerActivations::place(arena, o, shape, spec.tensor, recompute));
}

StageWorkspace StageWorkspace::place(Arena& arena, const ModelOptions& o, const StageSpec& spec,
                                     const BatchShape& shape, const StageSettings& settings) {
  StageWorkspace w;
  const std::size_t rows = num_rows(shape, spec.tensor);
  const std::size_t stream = rows * static_cast<std::size_t>(o.width);
  w.block = BlockWorkspace::place(arena, o, shape, spec.tensor, settings);
  w.layer = LayerActivations::place(arena, o, shape, spec.tensor);
  for (float*& place : w.stream) place = arena.take(stream);
  w.normed = arena.take(stream_size(o, shape));
  if (o.norm == NormKind::kLayerNorm) w.mean = arena.take(rows);
  w.rstd = arena.take(rows);
  w.grad = arena.take(stream);
  if (spec.has_head) w.head = HeadWorkspace::place(arena, o, shape, spec.tensor);
  return w;
}

PositionTables PositionTables::place(Arena& arena, const ModelOptions& o) {
  PositionTables t;
  if (o.positions == PositionKind::kRope) {
    const auto size = static_cast<std::size_t>(o.max_sequence_length * (o.head_dim / 2));
    t.cosine = arena.take(size);
    t.sine = arena.take(size);
  }
  if (o.positions == PositionKind::kAlibi)
    t.slopes = arena.take(static_cast<std::size_t>(o.num_heads));
  return t;
}

void PositionTables::fill(const ModelOptions& o, std::int64_t first_head,
                          std::int64_t num_heads) const {
  if (cosine != nullptr) {
    const std::int64_t half = o.head_dim / 2;
    for (std::int64_t position = 0; position < o.max_sequence_length; ++position)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(position) *
            std::pow(o.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(o.head_dim));
        cosine[position * half + i] = static_cast<float>(std::cos(angle));
        sine[position * half + i] = static_cast<float>(std::sin(angle));
      }
  }
  if (slopes != nullptr)
    for (std::int64_t h = 0; h < o.num_heads; ++h)
      slopes[h] = alibi_slope(first_head + h, num_heads);
}

StageMemory plan_memory(const ModelOptions& options, const StageSpec& spec, const BatchShape& shape,
                        const StageSettings& settings) {
  const StageLayout layout = lay_out_stage(options, spec);
  const ModelOptions o = local_options(options, spec.tensor);
  const auto bytes = [](std::size_t floats) {
    return static_cast<std::int64_t>(floats * sizeof(float));
  };
  StageMemory memory;
  memory.values = bytes(static_cast<std::size_t>(layout.values_size));
  memory.gradient = bytes(static_cast<std::size_t>(layout.gradient_size));
  StageSlot slot;
  memory.slot =
      bytes(measure([&](Arena& a) { slot.place(a, o, spec, shape, settings.recompute); })) +
      static_cast<std::int64_t>(3 * num_tokens(shape) * sizeof(std::int32_t));
  memory.workspace =
      bytes(measure([&](Arena& a) { StageWorkspace::place(a, o, spec, shape, settings); })) +
      bytes(measure([&](Arena& a) { PositionTables::place(a, o); })) +
      settings.num_threads * Gemm::workspace_bytes();
  return memory;
}

}  // namespace tenax::compute::cpu
