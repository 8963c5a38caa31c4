// Keys of shard data: checkpoint_id (8 bytes, big endian) / writer NUL kind NUL name NUL / part (4,
// big endian) / chunk (4, big endian). All keys of one checkpoint are one range and all of one
// writer within it too, so files of different checkpoints or writers never overlap. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace tenax::checkpoint {

struct ShardKey {
  std::uint64_t checkpoint_id = 0;
  std::string writer;
  std::string kind;
  std::string name;
  std::uint32_t part = 0;   ///< which of the writer's boxes of this tensor
  std::uint32_t chunk = 0;  ///< which piece of the box

  bool operator==(const ShardKey&) const = default;
};

std::string encode_key(const ShardKey& key);
/// kDataLoss if `bytes` is no key.
Result<ShardKey> decode_key(std::string_view bytes);

/// Numbers as fixed-width big-endian bytes, so that their order is the keys' order.
std::string encode_id(std::uint64_t id);
/// kDataLoss unless `bytes` starts with 8 bytes.
Result<std::uint64_t> decode_id(std::string_view bytes);

/// "checkpoint 12, writer w0, parameter wte.weight, part 0, chunk 3"; for messages.
std::string describe(const ShardKey& key);

}  // namespace tenax::checkpoint
