// What a worker holds of a logical tensor, and the table of all it holds: the description that
// makes a flat slot readable. Plain values; encoded as Cap'n Proto (ShardTable in manifest.capnp)
// when a worker sends its table to its agent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/run_types.h"

namespace tenax::checkpoint {

enum class DType : std::uint16_t { kFloat32 = 0 };

/// Bytes of one element.
std::uint64_t dtype_bytes(DType dtype);

inline constexpr const char* kParameter = "parameter";
inline constexpr const char* kAdamM = "adam_m";
inline constexpr const char* kAdamV = "adam_v";

/// A box of the logical tensor (kind, name), row-major, at [offset, offset + bytes) of the worker's
/// flat payload.
struct TensorShard {
  std::string name;
  std::string kind;
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> global_shape;
  Box box;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;

  bool operator==(const TensorShard&) const = default;
};

/// Fails with kInvalidArgument, naming the tensor, unless names are usable in keys (not empty, no
/// NUL), the box lies within the shape, `bytes` is the box's size, and the range lies within
/// `payload_bytes`.
Status validate(const TensorShard& shard, std::uint64_t payload_bytes);

/// Sets `bytes` and `offset` of every shard in table order, each aligned to `alignment`. Returns
/// the payload's size.
std::uint64_t assign_offsets(std::span<TensorShard> table, std::uint64_t alignment = 64);

std::string encode_table(std::span<const TensorShard> table);
/// kDataLoss if `bytes` is not an encoded table.
Result<std::vector<TensorShard>> decode_table(std::string_view bytes);

}  // namespace tenax::checkpoint
