// The folder of a run that holds the files with the tensors' bytes. A file belongs to one
// checkpoint, comes by one rename and goes whole. Names: <checkpoint_id>-<writer>-<n>.chunks, of
// which only the number is read back. Internal to checkpoint/.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"

namespace rocksdb {
class Env;
class FileSystem;
}  // namespace rocksdb

namespace tenax::checkpoint {

/// First bytes of a chunk file: "TNXC 1 <checkpoint_id> <writer>\n" and NULs up to this size. The
/// chunks follow, each at a multiple of it.
inline constexpr std::uint64_t kChunkAlignment = 4096;
std::string chunk_file_header(std::uint64_t checkpoint_id, const std::string& writer);

std::string chunk_file_name(std::uint64_t checkpoint_id, const std::string& writer,
                            std::size_t index);
std::string chunks_path(const std::string& run_path);

/// The files of `env`, null: the machine's.
std::shared_ptr<rocksdb::FileSystem> file_system_of(rocksdb::Env* env);

struct ChunkFileInfo {
  std::string name;
  std::uint64_t checkpoint_id = 0;
  std::uint64_t bytes = 0;
};

class ChunkFolder {
 public:
  ChunkFolder(const std::string& run_path, rocksdb::Env* env);

  /// Moves synced files in, durably: when it returns they are there after a power failure. After an
  /// error some may be; remove() takes them away.
  Status adopt(std::span<const std::string> paths);
  /// Frees the bytes of a checkpoint.
  Status remove(std::uint64_t checkpoint_id);
  /// All files, by name. Files with other names are left alone and not listed.
  Result<std::vector<ChunkFileInfo>> list() const;

 private:
  Status sync() const;

  std::string path_;
  std::shared_ptr<rocksdb::FileSystem> files_;
};

}  // namespace tenax::checkpoint
