#include "checkpoint/reader.h"

#include <fmt/format.h>

#include <cstring>

#include "checkpoint/box.h"
#include "checkpoint/parallel.h"
#include "checkpoint/shard_key.h"

namespace tenax::checkpoint {

Result<ChunkData> read_checked(const ChunkSource& source, std::uint64_t checkpoint_id,
                               const StoredShard& shard, std::uint32_t index) {
  const ShardKey key{checkpoint_id,    shard.writer, shard.shard.kind,
                     shard.shard.name, shard.part,   index};
  const auto lost = [&](std::string_view what) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} in {}: {}", describe(key), source.locate(key), what));
  };
  auto chunk = source.read_chunk(key);
  if (!chunk) {
    const Error& e = chunk.error();
    // A chunk that a manifest names and the source does not have is lost, whoever removed it.
    if (e.code == ErrorCode::kNotFound || e.code == ErrorCode::kDataLoss) return lost(e.message);
    return e.within(describe(key));
  }
  const Chunk& expected = shard.chunks[index];
  if (chunk->bytes.size() != expected.bytes) {
    return lost(fmt::format("expected {} bytes, got {}", expected.bytes, chunk->bytes.size()));
  }
  const Hash128 found = hash128(chunk->bytes);
  if (found != expected.hash) {
    return lost(fmt::format("expected hash {}, got {}", expected.hash.hex(), found.hex()));
  }
  return chunk;
}

CheckpointReader::CheckpointReader(const ChunkSource& source, Manifest manifest)
    : source_(source), manifest_(std::move(manifest)) {
  for (const StoredShard& s : manifest_.shards) {
    index_[{s.shard.kind, s.shard.name}].push_back(&s);
  }
}

std::vector<TensorInfo> CheckpointReader::tensors() const {
  std::vector<TensorInfo> out;
  out.reserve(index_.size());
  for (const auto& [key, shards] : index_) {
    const TensorShard& s = shards.front()->shard;
    out.push_back({key.first, key.second, s.dtype, s.global_shape});
  }
  return out;
}

Result<TensorInfo> CheckpointReader::tensor(const std::string& kind,
                                            const std::string& name) const {
  const auto it = index_.find({kind, name});
  if (it == index_.end()) {
    return make_error(ErrorCode::kNotFound, fmt::format("checkpoint {} has no {} '{}'",
                                                        manifest_.checkpoint_id, kind, name));
  }
  const TensorShard& s = it->second.front()->shard;
  return TensorInfo{kind, name, s.dtype, s.global_shape};
}

Status CheckpointReader::copy_part(const StoredShard& from, const Box& part, const Box& box,
                                   std::span<float> out) const {
  const auto chunk_elements = static_cast<std::int64_t>(manifest_.chunk_bytes / sizeof(float));
  ChunkData chunk;
  std::int64_t loaded = -1;
  for (Run run : copy_runs(from.shard.box, box, part)) {
    while (run.count > 0) {
      const std::int64_t index = run.source / chunk_elements;
      if (index != loaded) {
        if (index >= static_cast<std::int64_t>(from.chunks.size())) {
          return make_error(
              ErrorCode::kDataLoss,
              fmt::format("{} '{}' of writer {} has {} chunks, its box needs more", from.shard.kind,
                          from.shard.name, from.writer, from.chunks.size()));
        }
        TENAX_TRY(chunk, read_checked(source_, manifest_.checkpoint_id, from,
                                      static_cast<std::uint32_t>(index)));
        loaded = index;
      }
      const std::int64_t at = run.source - index * chunk_elements;
      const auto available = static_cast<std::int64_t>(chunk.bytes.size() / sizeof(float)) - at;
      const std::int64_t count = std::min(run.count, available);
      if (count <= 0) {
        return make_error(
            ErrorCode::kDataLoss,
            fmt::format("{} '{}' of writer {}: chunk {} ends before element {}", from.shard.kind,
                        from.shard.name, from.writer, index, run.source));
      }
      std::memcpy(out.data() + run.target,
                  chunk.bytes.data() + static_cast<std::size_t>(at) * sizeof(float),
                  static_cast<std::size_t>(count) * sizeof(float));
      run.source += count;
      run.target += count;
      run.count -= count;
    }
  }
  return {};
}

Status CheckpointReader::read_box(const std::string& kind, const std::string& name, const Box& box,
                                  std::span<float> out) const {
  TENAX_TRY(const TensorInfo info, tensor(kind, name));
  if (!lies_within(box, info.shape) || volume(box) != static_cast<std::int64_t>(out.size())) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("{} '{}' of shape {}: cannot read box {} into {} elements", kind,
                                  name, to_string(whole(info.shape)), to_string(box), out.size()));
  }
  std::vector<Box> missing;
  if (volume(box) > 0) missing.push_back(box);
  Status first_loss;
  for (const StoredShard* shard : index_.at({kind, name})) {
    std::vector<Box> rest;
    for (const Box& wanted : missing) {
      const auto part = intersect(wanted, shard->shard.box);
      if (!part) {
        rest.push_back(wanted);
        continue;
      }
      Status copied = copy_part(*shard, *part, box, out);
      if (copied) {
        for (Box& b : subtract(wanted, *part)) rest.push_back(std::move(b));
      } else {
        // Another shard may hold the same elements.
        if (first_loss) first_loss = std::move(copied);
        rest.push_back(wanted);
      }
    }
    missing = std::move(rest);
    if (missing.empty()) return {};
  }
  if (missing.empty()) return {};
  if (!first_loss) return first_loss;
  return make_error(ErrorCode::kDataLoss,
                    fmt::format("checkpoint {}: no shard of {} '{}' holds {}",
                                manifest_.checkpoint_id, kind, name, to_string(missing.front())));
}

Status CheckpointReader::read_boxes(std::span<const BoxRequest> requests, int num_threads) const {
  return for_each_index(requests.size(), num_threads, [&](std::size_t i) {
    const BoxRequest& r = requests[i];
    return read_box(r.kind, r.name, r.box, r.out);
  });
}

Status read_tensor_box(const ChunkSource& source, const Manifest& manifest, const std::string& kind,
                       const std::string& name, const Box& box, std::span<float> out) {
  return CheckpointReader(source, manifest).read_box(kind, name, box, out);
}

}  // namespace tenax::checkpoint
