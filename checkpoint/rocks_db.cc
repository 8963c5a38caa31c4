#include "checkpoint/rocks_db.h"

#include <fmt/format.h>
#include <rocksdb/env.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/metadata.h>
#include <rocksdb/table.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "checkpoint/rocks_log.h"

namespace tenax::checkpoint {

namespace {

constexpr std::uint32_t kTableFormat = 5;  // the newest that both 7.8 and 9.10 write and read

rocksdb::BlockBasedTableOptions table_options() {
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;
  table.format_version = kTableFormat;
  table.no_block_cache = true;
  return table;
}

/// Small records that are written one by one: a small memtable keeps the log, and so every reader's
/// opening, short.
rocksdb::ColumnFamilyOptions record_family() {
  rocksdb::ColumnFamilyOptions options;
  options.write_buffer_size = 4 << 20;
  options.compression = rocksdb::kZSTD;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table_options()));
  return options;
}

rocksdb::DBOptions db_options(const std::string& path, OpenAs as, rocksdb::Env* env) {
  rocksdb::DBOptions options;
  options.env = env_or_default(env);
  options.create_if_missing = as == OpenAs::kPrimary;
  options.create_missing_column_families = as == OpenAs::kPrimary;
  options.max_open_files = 512;
  options.skip_stats_update_on_db_open = true;
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  options.info_log = as == OpenAs::kPrimary ? make_rocks_log(path) : make_silent_rocks_log();
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  return options;
}

Result<Rocks> open_rocks(const std::string& path, OpenAs as, const rocksdb::DBOptions& options,
                         const std::vector<rocksdb::ColumnFamilyDescriptor>& families) {
  Rocks rocks;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      as == OpenAs::kReadOnly
          ? rocksdb::DB::OpenForReadOnly(options, path, families, &rocks.families, &db)
          : rocksdb::DB::Open(options, path, families, &rocks.families, &db);
  if (!status.ok()) return from_rocks(status, "open", path);
  rocks.db.reset(db);
  return rocks;
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

std::string records_path(const std::string& run_path) { return run_path + "/records"; }
std::string shards_path(const std::string& run_path) { return run_path + "/shards"; }

bool has_shards(const std::string& run_path) {
  return ::access((shards_path(run_path) + "/CURRENT").c_str(), F_OK) == 0;
}

rocksdb::Env* env_or_default(rocksdb::Env* env) {
  return env != nullptr ? env : rocksdb::Env::Default();
}

rocksdb::Options shard_file_options(rocksdb::Env* env) {
  rocksdb::Options options;
  options.env = env_or_default(env);
  options.compression = rocksdb::kNoCompression;
  options.disable_auto_compactions = true;
  options.bytes_per_sync = 4 << 20;
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table_options()));
  return options;
}

Rocks::Rocks(Rocks&& other) noexcept
    : db(std::move(other.db)), families(std::exchange(other.families, {})) {}

Rocks& Rocks::operator=(Rocks&& other) noexcept {
  std::swap(db, other.db);
  std::swap(families, other.families);
  return *this;
}

Rocks::~Rocks() {
  if (!db) return;
  for (rocksdb::ColumnFamilyHandle* handle : families) {
    db->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  }
}

Result<Rocks> open_records(const std::string& path, OpenAs as, rocksdb::Env* env) {
  rocksdb::DBOptions options = db_options(path, as, env);
  // A torn last record is a crash; anything else in the log is damage, and a journal that silently
  // ends earlier is worse than a refusal. Readers see the owner's log while it grows.
  options.wal_recovery_mode = as == OpenAs::kPrimary
                                  ? rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords
                                  : rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.max_total_wal_size = 16 << 20;
  return open_rocks(path, as, options,
                    {{rocksdb::kDefaultColumnFamilyName, record_family()},
                     {"journal", record_family()},
                     {"manifests", record_family()}});
}

Result<Rocks> open_shards(const std::string& path, OpenAs as, rocksdb::Env* env) {
  rocksdb::DBOptions options = db_options(path, as, env);
  options.paranoid_checks = as == OpenAs::kPrimary;
  return open_rocks(
      path, as, options,
      {{rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions(shard_file_options(env))}});
}

Error from_rocks(const rocksdb::Status& status, std::string_view doing, std::string_view path) {
  const std::string words = status.ToString();
  ErrorCode code = ErrorCode::kIo;
  if (status.IsNoSpace() || contains(words, "No space left")) {
    code = ErrorCode::kNoSpace;
  } else if (contains(words, "Permission denied") || contains(words, "Read-only file system")) {
    code = ErrorCode::kPermission;
  } else if (status.IsIOError() && contains(words, "lock")) {
    code = ErrorCode::kInUse;
  } else if (status.IsCorruption()) {
    code = ErrorCode::kDataLoss;
  } else if (status.IsNotFound() || status.IsPathNotFound() ||
             contains(words, "No such file or directory")) {
    code = ErrorCode::kNotFound;
  } else if (status.IsBusy() || status.IsTryAgain()) {
    code = ErrorCode::kUnavailable;
  } else if (status.IsInvalidArgument()) {
    code = ErrorCode::kInvalidArgument;
  } else if (status.IsNotSupported()) {
    code = ErrorCode::kUnsupported;
  }
  return make_error(code, fmt::format("{} {}: {}", doing, path, words));
}

Status to_status(const rocksdb::Status& status, std::string_view doing, std::string_view path) {
  if (status.ok()) return {};
  return from_rocks(status, doing, path);
}

std::vector<LiveFile> shard_files(const Rocks& shards) {
  if (!shards.db) return {};
  rocksdb::ColumnFamilyMetaData meta;
  shards.db->GetColumnFamilyMetaData(shards.db->DefaultColumnFamily(), &meta);
  std::vector<LiveFile> files;
  for (const rocksdb::LevelMetaData& level : meta.levels) {
    for (const rocksdb::SstFileMetaData& f : level.files) {
      files.push_back(
          {f.db_path + f.name, f.size, f.file_checksum, f.smallestkey, f.largestkey, level.level});
    }
  }
  std::sort(files.begin(), files.end(),
            [](const LiveFile& a, const LiveFile& b) { return a.first_key < b.first_key; });
  return files;
}

}  // namespace tenax::checkpoint
