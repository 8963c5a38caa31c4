#include "checkpoint/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "checkpoint/box.h"
#include "checkpoint/parallel.h"
#include "checkpoint/read_plan.h"

namespace tenax::checkpoint {

Result<std::span<const std::byte>> read_checked(const ChunkSource& source, const Manifest& manifest,
                                                const StoredShard& shard, std::uint32_t index,
                                                ChunkBuffer& buffer) {
  const auto name = [&] {
    return fmt::format("checkpoint {}, {} {} of writer {}, chunk {}", manifest.checkpoint_id,
                       shard.shard.kind, shard.shard.name, shard.writer, index);
  };
  const auto lost = [&](std::string_view what) {
    return make_error(
        ErrorCode::kDataLoss,
        fmt::format("{} in {}: {}", name(), source.locate(manifest, shard, index), what));
  };
  const auto chunk = source.read_chunk(manifest, shard, index, buffer);
  if (!chunk) {
    const Error& e = chunk.error();
    // A chunk that a manifest names and the source does not have is lost, whoever removed it.
    if (e.code == ErrorCode::kNotFound || e.code == ErrorCode::kDataLoss) return lost(e.message);
    return e.within(name());
  }
  const Chunk& expected = shard.chunks[index];
  if (chunk->size() != expected.bytes) {
    return lost(fmt::format("expected {} bytes, got {}", expected.bytes, chunk->size()));
  }
  const Hash128 found = hash128(*chunk);
  if (found != expected.hash) {
    return lost(fmt::format("expected hash {}, got {}", expected.hash.hex(), found.hex()));
  }
  return *chunk;
}

CheckpointReader::CheckpointReader(const ChunkSource& source, Manifest manifest)
    : source_(source),
      manifest_(std::move(manifest)),
      bytes_read_(std::make_unique<std::atomic<std::uint64_t>>(0)) {
  for (const StoredShard& s : manifest_.shards) {
    index_[{s.shard.kind, s.shard.name}].push_back(&s);
  }
}

std::uint64_t CheckpointReader::bytes_read() const { return *bytes_read_; }

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

Status CheckpointReader::check(const BoxRequest& r) const {
  TENAX_TRY(const TensorInfo info, tensor(r.kind, r.name));
  if (lies_within(r.box, info.shape) && volume(r.box) == static_cast<std::int64_t>(r.out.size())) {
    return {};
  }
  return make_error(
      ErrorCode::kInvalidArgument,
      fmt::format("{} '{}' of shape {}: cannot read box {} into {} elements", r.kind, r.name,
                  to_string(whole(info.shape)), to_string(r.box), r.out.size()));
}

Result<std::vector<ShardPart>> CheckpointReader::cover(const BoxRequest& r) const {
  std::vector<ShardPart> parts;
  std::vector<Box> missing;
  if (volume(r.box) > 0) missing.push_back(r.box);
  for (const StoredShard* shard : index_.at({r.kind, r.name})) {
    if (missing.empty()) break;
    std::vector<Box> rest;
    for (const Box& wanted : missing) {
      const auto part = intersect(wanted, shard->shard.box);
      if (!part) {
        rest.push_back(wanted);
        continue;
      }
      parts.push_back(part_of(*shard, *part, r.box));
      for (Box& b : subtract(wanted, *part)) rest.push_back(std::move(b));
    }
    missing = std::move(rest);
  }
  if (missing.empty()) return parts;
  return make_error(ErrorCode::kDataLoss, fmt::format("checkpoint {}: no shard of {} '{}' holds {}",
                                                      manifest_.checkpoint_id, r.kind, r.name,
                                                      to_string(missing.front())));
}

Status CheckpointReader::read_chunk(const ShardPart& part, const ChunkUse& use, ChunkBuffer& buffer,
                                    std::span<float> out) const {
  *bytes_read_ += part.shard->chunks[use.chunk].bytes;
  TENAX_TRY(const auto bytes, read_checked(source_, manifest_, *part.shard, use.chunk, buffer));
  return copy_chunk(part, use, manifest_.chunk_bytes, bytes, out);
}

Status CheckpointReader::read_part(const ShardPart& part, std::span<float> out) const {
  ChunkBuffer buffer;
  TENAX_TRY(const auto uses, chunks_of(part, manifest_.chunk_bytes));
  for (const ChunkUse& use : uses) {
    TENAX_RETURN_IF_ERROR(read_chunk(part, use, buffer, out));
  }
  return {};
}

Status CheckpointReader::read_from_any(const BoxRequest& r) const {
  std::vector<Box> missing = {r.box};
  Status first_loss;
  for (const StoredShard* shard : index_.at({r.kind, r.name})) {
    std::vector<Box> rest;
    for (const Box& wanted : missing) {
      const auto part = intersect(wanted, shard->shard.box);
      if (!part) {
        rest.push_back(wanted);
        continue;
      }
      Status copied = read_part(part_of(*shard, *part, r.box), r.out);
      if (copied) {
        for (Box& b : subtract(wanted, *part)) rest.push_back(std::move(b));
      } else {
        if (first_loss) first_loss = std::move(copied);
        rest.push_back(wanted);
      }
    }
    missing = std::move(rest);
    if (missing.empty()) return {};
  }
  return first_loss;
}

Status CheckpointReader::read_box(const std::string& kind, const std::string& name, const Box& box,
                                  std::span<float> out) const {
  const BoxRequest request{kind, name, box, out};
  return read_boxes({&request, 1}, 1);
}

Status CheckpointReader::read_boxes(std::span<const BoxRequest> requests, int num_threads) const {
  struct Task {
    std::size_t request = 0;
    const ShardPart* part = nullptr;
    ChunkUse use;
  };
  std::vector<std::vector<ShardPart>> parts(requests.size());
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    TENAX_RETURN_IF_ERROR(check(requests[i]));
    TENAX_TRY(parts[i], cover(requests[i]));
    for (const ShardPart& part : parts[i]) {
      TENAX_TRY(const auto uses, chunks_of(part, manifest_.chunk_bytes));
      for (const ChunkUse& use : uses) tasks.push_back({i, &part, use});
    }
  }
  // In the order in which they lie on the disk.
  std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
    return std::tie(a.part->shard, a.use.chunk) < std::tie(b.part->shard, b.use.chunk);
  });
  std::vector<std::atomic<bool>> lost(requests.size());
  std::vector<ChunkBuffer> buffers(static_cast<std::size_t>(std::max(1, num_threads)));
  TENAX_RETURN_IF_ERROR(
      for_each_index_of_worker(tasks.size(), num_threads, [&](std::size_t i, int worker) -> Status {
        const Task& t = tasks[i];
        if (lost[t.request]) return {};
        const Status copied = read_chunk(*t.part, t.use, buffers[static_cast<std::size_t>(worker)],
                                         requests[t.request].out);
        if (copied || copied.error().code != ErrorCode::kDataLoss) return copied;
        lost[t.request] = true;
        return {};
      }));
  for (std::size_t i = 0; i < requests.size(); ++i) {
    // Another shard may hold the same elements.
    if (lost[i]) TENAX_RETURN_IF_ERROR(read_from_any(requests[i]));
  }
  return {};
}

Status read_tensor_box(const ChunkSource& source, const Manifest& manifest, const std::string& kind,
                       const std::string& name, const Box& box, std::span<float> out) {
  return CheckpointReader(source, manifest).read_box(kind, name, box, out);
}

}  // namespace tenax::checkpoint
