// What a rank's engine holds as the payload of a shared-memory slot: weights, then AdamW's first
// and second moments. The table of logical tensors in it, and the copy there. Pure but for the
// copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/tensor_shard.h"
#include "compute/engine.h"

namespace tenax::actors {

struct EnginePayload {
  std::vector<checkpoint::TensorShard> table;  ///< all that the rank holds
  std::vector<std::uint32_t> writes;  ///< entries of the table that this rank writes to checkpoints
  std::uint64_t bytes = 0;
  /// The first so many bytes are equal on all data-parallel replicas: all of it, or without the
  /// moments where those are sharded (ZeRO).
  std::uint64_t replicated_bytes = 0;
};

EnginePayload payload_of(compute::Engine& engine);

/// The floats behind an entry of the table, of Engine::state() or of a copy of it.
std::span<float> shard_values(std::span<const std::span<float>> state,
                              const checkpoint::TensorShard& shard);

/// Begins the copy (Engine::begin_reading()). `payload` holds EnginePayload::bytes.
Result<bool> begin_copy_to_payload(compute::Engine& engine, std::span<std::byte> payload);
/// The same to its end.
Status copy_to_payload(compute::Engine& engine, std::span<std::byte> payload);

}  // namespace tenax::actors
