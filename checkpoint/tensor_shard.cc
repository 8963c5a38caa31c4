#include "checkpoint/tensor_shard.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fmt/format.h>

#include "checkpoint/box.h"
#include "checkpoint/capnp_shard.h"
#include "common/check.h"

namespace tenax::checkpoint {

std::uint64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
  }
  TENAX_CHECK(false);
}

Status validate(const TensorShard& shard, std::uint64_t payload_bytes) {
  const auto invalid = [&](std::string_view what) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("shard {} '{}': {}", shard.kind, shard.name, what));
  };
  for (const std::string* text : {&shard.kind, &shard.name}) {
    if (text->empty() || text->find('\0') != std::string::npos) {
      return invalid("kind and name must be non-empty text without NUL");
    }
  }
  if (!lies_within(shard.box, shard.global_shape)) {
    return invalid(fmt::format("box {} is not within the shape {}", to_string(shard.box),
                               to_string(whole(shard.global_shape))));
  }
  const auto expected = static_cast<std::uint64_t>(volume(shard.box)) * dtype_bytes(shard.dtype);
  if (shard.bytes != expected) {
    return invalid(fmt::format("expected {} bytes for box {}, got {}", expected,
                               to_string(shard.box), shard.bytes));
  }
  if (shard.bytes > payload_bytes || shard.offset > payload_bytes - shard.bytes) {
    return invalid(fmt::format("bytes {} to {} are outside of the payload of {} bytes",
                               shard.offset, shard.offset + shard.bytes, payload_bytes));
  }
  return {};
}

std::uint64_t assign_offsets(std::span<TensorShard> table, std::uint64_t alignment) {
  std::uint64_t end = 0;
  for (TensorShard& shard : table) {
    shard.offset = (end + alignment - 1) / alignment * alignment;
    shard.bytes = static_cast<std::uint64_t>(volume(shard.box)) * dtype_bytes(shard.dtype);
    end = shard.offset + shard.bytes;
  }
  return end;
}

std::string encode_table(std::span<const TensorShard> table) {
  capnp::MallocMessageBuilder message;
  auto shards =
      message.initRoot<schema::ShardTable>().initShards(static_cast<unsigned>(table.size()));
  for (unsigned i = 0; i < table.size(); ++i) write_shard_fields(table[i], shards[i]);
  return flat_bytes(message);
}

Result<std::vector<TensorShard>> decode_table(std::string_view bytes) {
  return read_flat<schema::ShardTable>(
      bytes, "shard table",
      [](schema::ShardTable::Reader table) -> Result<std::vector<TensorShard>> {
        std::vector<TensorShard> shards;
        for (const auto shard : table.getShards()) {
          TENAX_TRY(shards.emplace_back(), read_shard_fields(shard));
        }
        return shards;
      });
}

}  // namespace tenax::checkpoint
