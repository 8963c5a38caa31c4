#include "checkpoint/repair.h"

#include <fmt/format.h>
#include <rocksdb/convenience.h>
#include <rocksdb/sst_file_reader.h>
#include <sys/stat.h>

#include <utility>

namespace tenax::checkpoint {

namespace {

/// Why the file cannot be part of a store; empty if it can. Reads size, footer and index, not the
/// data.
std::string what_is_wrong(const LiveFile& file, rocksdb::Env* env) {
  struct stat info {};
  if (::stat(file.path.c_str(), &info) != 0) return "missing";
  if (static_cast<std::uint64_t>(info.st_size) != file.bytes) {
    return fmt::format("expected {} bytes, got {}", file.bytes, info.st_size);
  }
  rocksdb::SstFileReader reader(shard_file_options(env));
  const rocksdb::Status status = reader.Open(file.path);
  return status.ok() ? std::string() : status.ToString();
}

Status drop_damaged(Rocks& shards, rocksdb::Env* env, std::vector<std::string>& dropped) {
  for (const LiveFile& file : shard_files(shards)) {
    const std::string wrong = what_is_wrong(file, env);
    if (wrong.empty()) continue;
    const rocksdb::Slice first(file.first_key);
    const rocksdb::Slice last(file.last_key);
    TENAX_RETURN_IF_ERROR(
        to_status(rocksdb::DeleteFilesInRange(shards.db.get(), shards.db->DefaultColumnFamily(),
                                              &first, &last, true),
                  "drop", file.path));
    dropped.push_back(fmt::format("{}: {}", file.path, wrong));
  }
  return {};
}

bool is_damage(const Error& error) {
  return error.code != ErrorCode::kInUse && error.code != ErrorCode::kPermission &&
         error.code != ErrorCode::kNoSpace;
}

}  // namespace

Result<Rocks> open_shards_or_repair(const std::string& path, rocksdb::Env* env,
                                    std::vector<std::string>& dropped) {
  auto shards = open_shards(path, OpenAs::kPrimary, env);
  if (shards || !is_damage(shards.error())) return shards;
  {
    TENAX_TRY(Rocks damaged, open_shards(path, OpenAs::kTolerant, env));
    TENAX_RETURN_IF_ERROR(drop_damaged(damaged, env, dropped));
  }
  return open_shards(path, OpenAs::kPrimary, env);
}

Result<Rocks> salvage_records(const std::string& path, rocksdb::Env* env) {
  // Opening writes what was read into tables and starts a new log, so the damage is gone when this
  // closes.
  { TENAX_TRY(const Rocks damaged, open_records(path, OpenAs::kTolerant, env)); }
  return open_records(path, OpenAs::kPrimary, env);
}

}  // namespace tenax::checkpoint
