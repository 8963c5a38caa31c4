// Where chunks come from: the store, or a test that watches it. The seam between reading tensors
// and holding bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/direct_io.h"
#include "checkpoint/manifest.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// Memory for one chunk at a time, used again and again by one thread.
struct ChunkBuffer {
  AlignedBuffer raw;
  std::vector<std::byte> plain;
  std::shared_ptr<const void> pinned;
};

class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  /// Chunk `index` of a shard of `manifest`, in `buffer` until that is used again. Blocks for the
  /// disk. kNotFound: no such chunk; kDataLoss: the source itself knows that the bytes are bad. The
  /// caller checks size and hash. May be called from several threads, with a buffer each.
  virtual Result<std::span<const std::byte>> read_chunk(const Manifest& manifest,
                                                        const StoredShard& shard,
                                                        std::uint32_t index,
                                                        ChunkBuffer& buffer) const = 0;
  /// The file that holds the chunk, for messages.
  virtual std::string locate(const Manifest& manifest, const StoredShard& shard,
                             std::uint32_t index) const = 0;
};

}  // namespace tenax::checkpoint
