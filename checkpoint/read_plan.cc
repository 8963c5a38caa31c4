#include "checkpoint/read_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace tenax::checkpoint {

namespace {

std::int64_t elements(std::uint64_t bytes) {
  return static_cast<std::int64_t>(bytes / sizeof(float));
}

Error too_short(const StoredShard& s, std::int64_t chunk) {
  return make_error(ErrorCode::kDataLoss,
                    fmt::format("{} '{}' of writer {}: chunk {} is missing or ends early",
                                s.shard.kind, s.shard.name, s.writer, chunk));
}

}  // namespace

ShardPart part_of(const StoredShard& shard, const Box& part, const Box& box) {
  return {&shard, copy_runs(shard.shard.box, box, part)};
}

Result<std::vector<ChunkUse>> chunks_of(const ShardPart& part, std::uint64_t chunk_bytes) {
  const std::int64_t size = elements(chunk_bytes);
  std::vector<ChunkUse> uses;
  for (std::size_t i = 0; i < part.runs.size(); ++i) {
    const Run& run = part.runs[i];
    const std::int64_t last = (run.source + run.count - 1) / size;
    if (last >= static_cast<std::int64_t>(part.shard->chunks.size())) {
      return too_short(*part.shard, last);
    }
    std::int64_t chunk = run.source / size;
    if (!uses.empty() && chunk <= uses.back().chunk) chunk = uses.back().chunk + 1;
    for (; chunk <= last; ++chunk) uses.push_back({static_cast<std::uint32_t>(chunk), i});
  }
  return uses;
}

Status copy_chunk(const ShardPart& part, const ChunkUse& use, std::uint64_t chunk_bytes,
                  std::span<const std::byte> bytes, std::span<float> out) {
  const std::int64_t begin = use.chunk * elements(chunk_bytes);
  const std::int64_t end = begin + elements(chunk_bytes);
  for (std::size_t i = use.first_run; i < part.runs.size() && part.runs[i].source < end; ++i) {
    const Run& run = part.runs[i];
    const std::int64_t from = std::max(run.source, begin);
    const std::int64_t to = std::min(run.source + run.count, end);
    if (to - begin > elements(bytes.size())) return too_short(*part.shard, use.chunk);
    std::memcpy(out.data() + run.target + (from - run.source),
                bytes.data() + static_cast<std::size_t>(from - begin) * sizeof(float),
                static_cast<std::size_t>(to - from) * sizeof(float));
  }
  return {};
}

}  // namespace tenax::checkpoint
