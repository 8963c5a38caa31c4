// Which chunks hold the elements of a box, and which runs of each go where: the arithmetic of
// resharding, without I/O. Internal to checkpoint/. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/box.h"
#include "checkpoint/manifest.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// What one shard gives to one box.
struct ShardPart {
  const StoredShard* shard = nullptr;
  std::vector<Run> runs;  ///< ascending in both
};

/// One chunk of a part, to be read once.
struct ChunkUse {
  std::uint32_t chunk = 0;
  std::size_t first_run = 0;  ///< of the part's runs that touch the chunk
};

/// What `shard` gives to `box` of its share `part`.
ShardPart part_of(const StoredShard& shard, const Box& part, const Box& box);

/// The chunks that hold the part's elements, in order. kDataLoss if the shard has fewer chunks than
/// its box needs.
Result<std::vector<ChunkUse>> chunks_of(const ShardPart& part, std::uint64_t chunk_bytes);

/// Copies what chunk `use` of the part, with these bytes, gives to `out`. kDataLoss if the chunk is
/// shorter than that.
Status copy_chunk(const ShardPart& part, const ChunkUse& use, std::uint64_t chunk_bytes,
                  std::span<const std::byte> bytes, std::span<float> out);

}  // namespace tenax::checkpoint
