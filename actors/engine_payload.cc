#include "actors/engine_payload.h"

#include <algorithm>
#include <utility>

#include "checkpoint/box.h"

namespace tenax::actors {

namespace {

/// Fills the table part by part.
class TableBuilder {
 public:
  explicit TableBuilder(compute::Engine& engine)
      : engine_(engine),
        replica_(static_cast<std::size_t>(engine.options().replica)),
        num_replicas_(engine.options().dp_group.size()) {}

  EnginePayload build() {
    const std::span<float> values = engine_.values();
    add_weights();
    payload_.bytes = values.size_bytes();
    for (const char* kind : {checkpoint::kAdamM, checkpoint::kAdamV}) {
      add_moments(kind);
      payload_.bytes += engine_.adam_m().size_bytes();
    }
    payload_.replicated_bytes = sharded() ? values.size_bytes() : payload_.bytes;
    return std::move(payload_);
  }

 private:
  bool sharded() const { return engine_.options().zero > 0; }

  /// The last stage's copy of a tied embedding is the first stage's tensor: written there. Replicas
  /// share the work tensor by tensor.
  bool is_written(std::size_t parameter) const {
    return is_ours(parameter) && parameter % num_replicas_ == replica_;
  }
  /// What several tensor-parallel ranks hold alike belongs to the first.
  bool is_ours(std::size_t parameter) const {
    return !is_copy(parameter) && engine_.parameters()[parameter].held.first;
  }
  bool is_copy(std::size_t parameter) const {
    return engine_.parameters()[parameter].gradients.front().kind ==
           compute::GradientPartKind::kEmbeddingOutput;
  }

  void add_weights() {
    for (std::size_t i = 0; i < engine_.parameters().size(); ++i) {
      const compute::StageParameter& p = engine_.parameters()[i];
      add(checkpoint::kParameter, i, p.held.box,
          static_cast<std::uint64_t>(p.offset) * sizeof(float), is_written(i));
    }
  }

  void add_moments(const char* kind) {
    for (const compute::MomentPiece& piece : engine_.moments()) {
      const compute::StageParameter& p = engine_.parameters()[piece.parameter];
      const bool written = sharded() ? is_ours(piece.parameter) : is_written(piece.parameter);
      const Box& held = p.held.box;
      const std::int64_t end = std::min(piece.end, checkpoint::volume(held));
      // A stretch of elements is a few boxes: the end of a row, whole rows, the start of a row.
      for (std::int64_t begin = piece.begin; begin < end;) {
        Box box = checkpoint::slab_at(held.extent, begin, end - begin);
        const auto at = static_cast<std::uint64_t>(piece.offset + begin - piece.begin);
        begin += checkpoint::volume(box);
        for (std::size_t dim = 0; dim < box.offset.size(); ++dim)
          box.offset[dim] += held.offset[dim];
        add(kind, piece.parameter, box, payload_.bytes + at * sizeof(float), written);
      }
    }
  }

  void add(const char* kind, std::size_t parameter, const Box& box, std::uint64_t offset,
           bool written) {
    if (checkpoint::volume(box) == 0) return;
    const compute::ParameterSpec& spec = engine_.parameters()[parameter].spec;
    checkpoint::TensorShard shard;
    shard.name = spec.name;
    shard.kind = kind;
    shard.global_shape = spec.shape;
    shard.box = box;
    shard.offset = offset;
    shard.bytes = static_cast<std::uint64_t>(checkpoint::volume(box)) * sizeof(float);
    if (written) payload_.writes.push_back(static_cast<std::uint32_t>(payload_.table.size()));
    payload_.table.push_back(std::move(shard));
  }

  compute::Engine& engine_;
  const std::size_t replica_;
  const std::size_t num_replicas_;
  EnginePayload payload_;
};

}  // namespace

EnginePayload payload_of(compute::Engine& engine) { return TableBuilder(engine).build(); }

std::span<float> shard_values(std::span<const std::span<float>> state,
                              const checkpoint::TensorShard& shard) {
  std::size_t at = shard.offset / sizeof(float);
  for (const std::span<float> part : state) {
    if (at < part.size()) return part.subspan(at, shard.bytes / sizeof(float));
    at -= part.size();
  }
  return {};
}

Result<bool> begin_copy_to_payload(compute::Engine& engine, std::span<std::byte> payload) {
  // A slot's payload begins on a page.
  return engine.begin_reading(
      {reinterpret_cast<float*>(payload.data()), payload.size() / sizeof(float)});
}

Status copy_to_payload(compute::Engine& engine, std::span<std::byte> payload) {
  TENAX_RETURN_IF_ERROR(begin_copy_to_payload(engine, payload));
  return engine.finish_reading();
}

}  // namespace tenax::actors
