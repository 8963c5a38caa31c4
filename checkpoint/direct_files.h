// How shard files are written: a RocksDB file layer whose files go to the disk past the page cache,
// one buffer while the next is being filled, so that hashing and copying a chunk overlap with the
// writing of the one before. Internal to checkpoint/.
#pragma once

#include <rocksdb/file_system.h>

#include <memory>

namespace tenax::checkpoint {

/// RocksDB's own files but for new writable ones, which are as described. Made for files that are
/// appended to in large pieces and synced once; an append reports the failure of an earlier one.
/// Memory: two buffers of kWriteBufferBytes a file.
std::shared_ptr<rocksdb::FileSystem> direct_files();

inline constexpr std::size_t kWriteBufferBytes = 8 << 20;

}  // namespace tenax::checkpoint
