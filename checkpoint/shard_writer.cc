#include "checkpoint/shard_writer.h"

#include <fmt/format.h>
#include <rocksdb/file_system.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "checkpoint/chunk_folder.h"
#include "checkpoint/compression.h"
#include "checkpoint/direct_files.h"
#include "checkpoint/files.h"
#include "checkpoint/parallel.h"
#include "checkpoint/rocks_db.h"
#include "checkpoint/tensor_hash.h"

namespace tenax::checkpoint {

namespace {

constexpr std::uint64_t kSmallestShare = 32 << 20;

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

/// Shards by kind, name and place, with the number of each among the boxes of its tensor.
std::vector<StoredShard> in_order(const ShardWriteRequest& request) {
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

/// Cuts the shards into chunks and the chunks, in order, into files, so many that each thread has
/// one if they are worth it.
std::vector<FilePlan> plan_files(const ShardWriteRequest& request,
                                 std::vector<StoredShard>& shards) {
  std::uint64_t total = 0;
  for (const StoredShard& s : shards) total += s.shard.bytes;
  const std::uint64_t share =
      total / static_cast<std::uint64_t>(std::max(1, request.options.num_threads)) + 1;
  const std::uint64_t file_bytes =
      std::min(request.options.file_bytes, std::max(share, kSmallestShare));
  std::vector<FilePlan> files;
  std::uint64_t in_file = 0;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const auto bytes = request.payload.subspan(shards[s].shard.offset, shards[s].shard.bytes);
    for (std::uint64_t at = 0; at < bytes.size(); at += request.options.chunk_bytes) {
      if (files.empty() || in_file >= file_bytes) {
        files.push_back(
            {fmt::format("{}/{}", request.staging_dir,
                         chunk_file_name(request.checkpoint_id, request.writer, files.size())),
             {}});
        in_file = 0;
      }
      const auto chunk =
          bytes.subspan(at, std::min(request.options.chunk_bytes, bytes.size() - at));
      files.back().chunks.push_back(
          {s, static_cast<std::uint32_t>(shards[s].chunks.size()), chunk});
      shards[s].chunks.emplace_back().bytes = static_cast<std::uint32_t>(chunk.size());
      in_file += chunk.size();
    }
  }
  return files;
}

rocksdb::FileOptions file_options() {
  rocksdb::FileOptions options;
  options.use_direct_writes = false;  // direct_files() does as it does, the others buffer
  return options;
}

/// Appends to a file, every piece from a multiple of kChunkAlignment on.
class ChunkFile {
 public:
  ChunkFile(std::string path, std::unique_ptr<rocksdb::FSWritableFile> file)
      : path_(std::move(path)), file_(std::move(file)) {}

  std::uint64_t bytes() const { return bytes_; }

  Status append(std::string_view data) {
    static constexpr char kZeros[kChunkAlignment] = {};
    TENAX_RETURN_IF_ERROR(put(data));
    const std::uint64_t over = bytes_ % kChunkAlignment;
    return over == 0 ? Status() : put({kZeros, kChunkAlignment - over});
  }

  Status sync_and_close() {
    TENAX_RETURN_IF_ERROR(to_status(file_->Fsync(rocksdb::IOOptions(), nullptr), "sync", path_));
    return to_status(file_->Close(rocksdb::IOOptions(), nullptr), "close", path_);
  }

 private:
  Status put(std::string_view data) {
    bytes_ += data.size();
    return to_status(file_->Append({data.data(), data.size()}, rocksdb::IOOptions(), nullptr),
                     "write", path_);
  }

  std::string path_;
  std::unique_ptr<rocksdb::FSWritableFile> file_;
  std::uint64_t bytes_ = 0;
};

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Result<ShardFile> write_file(const ShardWriteRequest& request, std::size_t index,
                             const FilePlan& plan, rocksdb::FileSystem& files,
                             std::vector<StoredShard>& shards) {
  const ShardWriteOptions& options = request.options;
  TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.open"));
  std::unique_ptr<rocksdb::FSWritableFile> created;
  TENAX_RETURN_IF_ERROR(to_status(
      files.NewWritableFile(plan.path, file_options(), &created, nullptr), "create", plan.path));
  ChunkFile file(plan.path, std::move(created));
  TENAX_RETURN_IF_ERROR(file.append(chunk_file_header(request.checkpoint_id, request.writer)));
  std::vector<std::byte> scratch;
  for (const ChunkPlan& chunk : plan.chunks) {
    TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.put"));
    Chunk& stored = shards[chunk.shard].chunks[chunk.index];
    stored.hash = hash128(chunk.bytes);
    stored.file = static_cast<std::uint32_t>(index);
    stored.file_offset = file.bytes();
    std::span<const std::byte> bytes = chunk.bytes;
    if (options.compression == Compression::kZstd) {
      const auto frame = compress_if_smaller(bytes, scratch);
      stored.stored_bytes = static_cast<std::uint32_t>(frame.size());
      if (!frame.empty()) bytes = frame;
    }
    TENAX_RETURN_IF_ERROR(file.append(as_text(bytes)));
  }
  TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.sync"));
  TENAX_RETURN_IF_ERROR(file.sync_and_close());
  TENAX_RETURN_IF_ERROR(reach(options.hook, "shard.done"));
  return ShardFile{plan.path, plan.path.substr(plan.path.rfind('/') + 1), file.bytes(),
                   plan.chunks.size()};
}

std::shared_ptr<rocksdb::FileSystem> files_for(const ShardWriteOptions& options) {
  if (options.env == nullptr && options.io == FileIo::kDirect) return direct_files();
  return file_system_of(options.env);
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
  out.shards = in_order(request);
  const std::vector<FilePlan> plans = plan_files(request, out.shards);
  out.files.resize(plans.size());
  const auto file_system = files_for(request.options);
  const Status written =
      for_each_index(plans.size(), request.options.num_threads, [&](std::size_t i) -> Status {
        TENAX_TRY(out.files[i], write_file(request, i, plans[i], *file_system, out.shards));
        return {};
      });
  if (!written) {
    // What a failed sync left in the page cache is not trusted: the files go, the slot still has
    // the bytes.
    for (const FilePlan& plan : plans) {
      file_system->DeleteFile(plan.path, rocksdb::IOOptions(), nullptr).PermitUncheckedError();
    }
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
  const auto first_file = static_cast<std::uint32_t>(manifest.files.size());
  for (StoredShard shard : from.shards) {
    for (Chunk& chunk : shard.chunks) chunk.file += first_file;
    manifest.shards.push_back(std::move(shard));
  }
  for (const ShardFile& f : from.files) manifest.files.push_back({f.name, f.bytes, {}, {}, {}});
  return {};
}

Result<int> discard_staged(const std::string& staging_dir, std::uint64_t checkpoint_id) {
  return remove_files(staging_dir, fmt::format("{}-", checkpoint_id));
}

}  // namespace tenax::checkpoint
