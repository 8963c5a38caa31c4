// Writes (part of) a sealed slot as chunk files (docs/checkpoint-format.md) into a store's staging
// folder. Runs in the agent, off the training path; needs no memory beyond some buffers a thread,
// whatever the model's size. Stateless: any number of calls at once, with different (checkpoint,
// writer) pairs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/step_hook.h"
#include "checkpoint/tensor_shard.h"
#include "common/result.h"

namespace rocksdb {
class Env;
}

namespace tenax::checkpoint {

inline constexpr std::uint64_t kChunkBytes = 4 << 20;

enum class Compression {
  kNone,
  kZstd,  ///< of the chunks that it makes smaller
};
enum class FileIo {
  kBuffered,  ///< through the page cache
  kDirect,    ///< past it, one buffer being written while the next is filled
};

struct ShardWriteOptions {
  std::uint64_t chunk_bytes =
      kChunkBytes;  ///< the same in all writers of a checkpoint; a multiple of 4096
  std::uint64_t file_bytes = 512 << 20;  ///< a file is closed after this many
  int num_threads = 2;
  Compression compression = Compression::kNone;
  FileIo io = FileIo::kDirect;
  StepHook hook;
  rocksdb::Env* env = nullptr;  ///< null: the machine's files, as `io` says
};

struct ShardWriteRequest {
  std::string staging_dir;  ///< Store::staging_dir() of the store that will commit
  std::uint64_t checkpoint_id = 0;
  std::string writer;               ///< unique within the checkpoint, such as "host0.w1"
  std::vector<TensorShard> shards;  ///< what to write: all of a worker's table or a part of it
  std::span<const std::byte> payload;
  ShardWriteOptions options;
};

/// A finished, synced file in the staging folder.
struct ShardFile {
  std::string path;
  std::string name;  ///< last component of the path
  std::uint64_t bytes = 0;
  std::uint64_t num_chunks = 0;
};

struct ShardFiles {
  std::vector<ShardFile> files;
  /// With hashes and chunks, whose `file` counts in `files`; sorted by kind, name, box offset.
  std::vector<StoredShard> shards;
  std::uint64_t chunk_bytes = 0;
};

/// Blocks until every file is synced. On any error all its files are removed, and the call can be
/// repeated with the same request. kInvalidArgument for a shard outside of the payload; kNoSpace,
/// kIo or kPermission with the path otherwise.
Result<ShardFiles> write_shard(const ShardWriteRequest& request);

/// Adds what one writer wrote to a manifest that is being put together. kInvalidArgument if its
/// chunk size differs from that of earlier writers.
Status add_to_manifest(const ShardFiles& from, Manifest& manifest);

/// Removes what any writer left in staging for a checkpoint that will not be committed, because
/// another writer failed or the generation ended. Returns the number of files.
Result<int> discard_staged(const std::string& staging_dir, std::uint64_t checkpoint_id);

}  // namespace tenax::checkpoint
