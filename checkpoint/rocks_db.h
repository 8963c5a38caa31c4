// RocksDB as this room uses it: options, column families, errors. Internal: only .cc files of
// checkpoint/ include it.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace tenax::checkpoint {

/// Families of the records database, in the order of Rocks::families.
enum Family : std::size_t { kMeta, kJournal, kManifests };

/// Keys of the meta family (RocksDB's "default").
inline constexpr const char* kStateKey = "state";
inline constexpr const char* kHighestIdKey = "highest_checkpoint_id";

/// An open RocksDB and its families; closed by the destructor.
struct Rocks {
  std::unique_ptr<rocksdb::DB> db;
  std::vector<rocksdb::ColumnFamilyHandle*> families;

  Rocks() = default;
  Rocks(Rocks&& other) noexcept;
  Rocks& operator=(Rocks&& other) noexcept;
  ~Rocks();
};

/// The database of a run, and the second one that runs of format 1 have: theirs for shard data.
struct Database {
  Rocks records;  ///< state, journal, manifests; its LOCK is the lease of the run
  Rocks shards;   ///< ingested files only; not open where there are none

  rocksdb::ColumnFamilyHandle* family(Family f) const { return records.families[f]; }
};

enum class OpenAs {
  kPrimary,   ///< takes the LOCK; refuses damage
  kTolerant,  ///< primary that opens in spite of damage, to drop what is damaged
  kReadOnly,  ///< beside a primary: a snapshot
};

/// For the shards database of format 1.
rocksdb::Options shard_file_options(rocksdb::Env* env);

/// Where RocksDB's own files of a run are.
std::string shards_path(const std::string& run_path);
bool has_shards(const std::string& run_path);

rocksdb::Env* env_or_default(rocksdb::Env* env);

/// kTolerant: the journal ends before the first damaged record. kReadOnly: likewise.
Result<Rocks> open_records(const std::string& path, OpenAs as, rocksdb::Env* env);
/// kReadOnly opens whatever the damage, which is found when it is read.
Result<Rocks> open_shards(const std::string& path, OpenAs as, rocksdb::Env* env);

/// "<doing> <path>: <RocksDB's words>" with the code a caller can act on.
Error from_rocks(const rocksdb::Status& status, std::string_view doing, std::string_view path);
Status to_status(const rocksdb::Status& status, std::string_view doing, std::string_view path);

/// A live file of the shards database.
struct LiveFile {
  std::string path;
  std::uint64_t bytes = 0;
  std::string checksum;
  std::string first_key;
  std::string last_key;
  int level = 0;
};

/// From memory, without I/O, in key order.
std::vector<LiveFile> shard_files(const Rocks& shards);

}  // namespace tenax::checkpoint
