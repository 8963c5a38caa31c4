// RocksDB as this room uses it: options, column families, errors. Internal: only .cc files of
// checkpoint/ include it.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace tenax::checkpoint {

/// Order of the handles in Database.
enum Family : std::size_t { kMeta, kJournal, kManifests, kShards, kNumFamilies };

/// Keys of the meta family (RocksDB's "default").
inline constexpr const char* kStateKey = "state";
inline constexpr const char* kHighestIdKey = "highest_checkpoint_id";

enum class OpenAs {
  kPrimary,   ///< takes the LOCK; refuses a damaged journal
  kRepair,    ///< primary that accepts damaged tables, to drop them
  kSalvage,   ///< kRepair that also accepts a damaged journal: it ends before the damage
  kReadOnly,  ///< beside a primary: a snapshot, damaged files found only when read
};

/// An open database and its families; closed by the destructor.
struct Database {
  std::unique_ptr<rocksdb::DB> db;
  std::array<rocksdb::ColumnFamilyHandle*, kNumFamilies> families{};

  Database() = default;
  Database(Database&& other) noexcept;
  Database& operator=(Database&& other) noexcept;
  ~Database();
  rocksdb::ColumnFamilyHandle* family(Family f) const { return families[f]; }
};

/// For SstFileWriter and the shards' family: 7.8 and 9.10 read each other's files.
rocksdb::Options shard_file_options(rocksdb::Env* env);

rocksdb::Env* env_or_default(rocksdb::Env* env);

Result<Database> open_database(const std::string& path, OpenAs as, rocksdb::Env* env);

/// "<doing> <path>: <RocksDB's words>" with the code a caller can act on.
Error from_rocks(const rocksdb::Status& status, std::string_view doing, std::string_view path);
Status to_status(const rocksdb::Status& status, std::string_view doing, std::string_view path);

/// A live file of the shards' family.
struct LiveFile {
  std::string path;
  std::uint64_t bytes = 0;
  std::string checksum;
  std::string first_key;
  std::string last_key;
  int level = 0;
};

/// From memory, without I/O, in key order.
std::vector<LiveFile> shard_files(const Database& database);

}  // namespace tenax::checkpoint
