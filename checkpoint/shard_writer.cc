#include "checkpoint/shard_writer.h"

#include <fmt/format.h>
#include <rocksdb/env.h>
#include <rocksdb/sst_file_writer.h>

#include <algorithm>
#include <tuple>

#include "checkpoint/files.h"
#include "checkpoint/parallel.h"
#include "checkpoint/rocks_db.h"
#include "checkpoint/shard_key.h"
#include "checkpoint/tensor_hash.h"

namespace tenax::checkpoint {

namespace {

/// A piece of the work: chunk `index` of shards[shard].
struct ChunkPlan {
  std::size_t shard = 0;
  std::uint32_t index = 0;
  std::span<const std::byte> bytes;
};

struct FilePlan {
  std::string path;
  std::vector<ChunkPlan> chunks;
};

/// Shards in key order, with the number of each among the boxes of its tensor.
std::vector<StoredShard> in_key_order(const ShardWriteRequest& request) {
  std::vector<StoredShard> shards;
  for (const TensorShard& s : request.shards) {
    shards.push_back({s, request.writer, 0, {}, {}});
  }
  std::sort(shards.begin(), shards.end(), [](const StoredShard& a, const StoredShard& b) {
    return std::tie(a.shard.kind, a.shard.name, a.shard.box.offset) <
           std::tie(b.shard.kind, b.shard.name, b.shard.box.offset);
  });
  for (std::size_t i = 1; i < shards.size(); ++i) {
    const StoredShard& before = shards[i - 1];
    if (before.shard.kind == shards[i].shard.kind && before.shard.name == shards[i].shard.name) {
      shards[i].part = before.part + 1;
    }
  }
  return shards;
}

/// Cuts the shards into chunks and the chunks, in key order, into files.
std::vector<FilePlan> plan_files(const ShardWriteRequest& request,
                                 std::vector<StoredShard>& shards) {
  std::vector<FilePlan> files;
  std::uint64_t in_file = 0;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const auto bytes = request.payload.subspan(shards[s].shard.offset, shards[s].shard.bytes);
    for (std::uint64_t at = 0; at < bytes.size(); at += request.options.chunk_bytes) {
      if (files.empty() || in_file >= request.options.file_bytes) {
        files.push_back({fmt::format("{}/{}-{}-{}.sst", request.staging_dir, request.checkpoint_id,
                                     request.writer, files.size()),
                         {}});
        in_file = 0;
      }
      const auto chunk =
          bytes.subspan(at, std::min(request.options.chunk_bytes, bytes.size() - at));
      files.back().chunks.push_back(
          {s, static_cast<std::uint32_t>(shards[s].chunks.size()), chunk});
      shards[s].chunks.push_back({static_cast<std::uint32_t>(chunk.size()), {}});
      in_file += chunk.size();
    }
  }
  return files;
}

rocksdb::CompressionType compression_type(Compression compression) {
  switch (compression) {
    case Compression::kNone:
      return rocksdb::kNoCompression;
    case Compression::kLz4:
      return rocksdb::kLZ4Compression;
    case Compression::kZstd:
      return rocksdb::kZSTD;
  }
  return rocksdb::kNoCompression;
}

Result<ShardFile> write_file(const ShardWriteRequest& request, const FilePlan& plan,
                             std::vector<StoredShard>& shards) {
  const ShardWriteOptions& options = request.options;
  rocksdb::Options rocks = shard_file_options(options.env);
  rocks.compression = compression_type(options.compression);
  rocksdb::EnvOptions env_options(rocks);
  env_options.use_direct_writes = options.io == FileIo::kDirect;
  rocksdb::SstFileWriter writer(env_options, rocks);

  TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.open"));
  TENAX_RETURN_IF_ERROR(to_status(writer.Open(plan.path), "create", plan.path));
  for (const ChunkPlan& chunk : plan.chunks) {
    TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.put"));
    StoredShard& shard = shards[chunk.shard];
    shard.chunks[chunk.index].hash = hash128(chunk.bytes);
    const std::string key = encode_key({request.checkpoint_id, request.writer, shard.shard.kind,
                                        shard.shard.name, shard.part, chunk.index});
    const rocksdb::Slice value(reinterpret_cast<const char*>(chunk.bytes.data()),
                               chunk.bytes.size());
    TENAX_RETURN_IF_ERROR(to_status(writer.Put(key, value), "write", plan.path));
  }
  TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.sync"));
  rocksdb::ExternalSstFileInfo info;
  TENAX_RETURN_IF_ERROR(to_status(writer.Finish(&info), "sync", plan.path));
  TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.done"));
  return ShardFile{
      plan.path,         info.file_size,   info.file_checksum, info.file_checksum_func_name,
      info.smallest_key, info.largest_key, info.num_entries};
}

Status validate(const ShardWriteRequest& request) {
  const ShardWriteOptions& options = request.options;
  if (request.writer.empty() || request.writer.find('\0') != std::string::npos ||
      request.writer.find('/') != std::string::npos) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("writer '{}': expected a name without '/' and NUL", request.writer));
  }
  if (options.chunk_bytes == 0 || options.chunk_bytes % 4096 != 0 ||
      options.chunk_bytes > (1u << 30)) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("chunk_bytes {}: expected a multiple of 4096 up to 1 GiB",
                                  options.chunk_bytes));
  }
  for (const TensorShard& s : request.shards) {
    TENAX_RETURN_IF_ERROR(validate(s, request.payload.size()));
  }
  return {};
}

}  // namespace

Result<ShardFiles> write_shard(const ShardWriteRequest& request) {
  TENAX_RETURN_IF_ERROR(validate(request));
  ShardFiles out;
  out.chunk_bytes = request.options.chunk_bytes;
  out.shards = in_key_order(request);
  const std::vector<FilePlan> plans = plan_files(request, out.shards);
  out.files.resize(plans.size());

  const Status written =
      for_each_index(plans.size(), request.options.num_threads, [&](std::size_t i) -> Status {
        TENAX_TRY(out.files[i], write_file(request, plans[i], out.shards));
        return {};
      });
  if (!written) {
    // What a failed sync left in the page cache is not trusted: the files go, the slot still has
    // the bytes.
    rocksdb::Env* env = env_or_default(request.options.env);
    for (const FilePlan& plan : plans) env->DeleteFile(plan.path).PermitUncheckedError();
    return written.error().within(
        fmt::format("checkpoint {}, writer {}", request.checkpoint_id, request.writer));
  }

  for (StoredShard& shard : out.shards) {
    std::vector<Hash128> hashes;
    for (const Chunk& chunk : shard.chunks) hashes.push_back(chunk.hash);
    shard.hash = shard_hash(hashes);
    shard.shard.offset = 0;
  }
  return out;
}

Status add_to_manifest(const ShardFiles& from, Manifest& manifest) {
  if (manifest.chunk_bytes != 0 && manifest.chunk_bytes != from.chunk_bytes) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("checkpoint {}: chunks of {} and of {} bytes",
                                  manifest.checkpoint_id, manifest.chunk_bytes, from.chunk_bytes));
  }
  manifest.chunk_bytes = from.chunk_bytes;
  manifest.shards.insert(manifest.shards.end(), from.shards.begin(), from.shards.end());
  for (const ShardFile& f : from.files) {
    manifest.files.push_back({f.bytes, f.checksum, f.first_key, f.last_key});
  }
  return {};
}

Result<int> discard_staged(const std::string& staging_dir, std::uint64_t checkpoint_id) {
  return remove_files(staging_dir, fmt::format("{}-", checkpoint_id));
}

}  // namespace tenax::checkpoint
