// Where chunks come from: the store, or in time a peer. The seam between reading tensors and
// holding bytes.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "checkpoint/shard_key.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// A chunk's bytes; valid while `owner` lives.
struct ChunkData {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  /// Blocks for the disk. kNotFound: no such chunk; kDataLoss: the source itself knows that the
  /// bytes are bad. The caller checks the hash. May be called from several threads.
  virtual Result<ChunkData> read_chunk(const ShardKey& key) const = 0;
  /// The file that holds the chunk, for messages.
  virtual std::string locate(const ShardKey& key) const = 0;
};

}  // namespace tenax::checkpoint
