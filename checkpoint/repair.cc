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

Status drop_damaged(Database& database, const std::string& path, rocksdb::Env* env,
                    std::vector<std::string>& dropped) {
  for (const LiveFile& file : shard_files(database)) {
    const std::string wrong = what_is_wrong(file, env);
    if (wrong.empty()) continue;
    const rocksdb::Slice first(file.first_key);
    const rocksdb::Slice last(file.last_key);
    TENAX_RETURN_IF_ERROR(
        to_status(rocksdb::DeleteFilesInRange(database.db.get(), database.family(kShards), &first,
                                              &last, true),
                  "drop " + file.path + " from", path));
    dropped.push_back(fmt::format("{}: {}", file.path, wrong));
  }
  return {};
}

}  // namespace

Result<Database> open_or_repair(const std::string& path, bool salvage_journal, rocksdb::Env* env,
                                std::vector<std::string>& dropped) {
  auto database = open_database(path, OpenAs::kPrimary, env);
  if (database) return database;
  const Error refused = database.error();
  if (refused.code == ErrorCode::kInUse || refused.code == ErrorCode::kPermission ||
      refused.code == ErrorCode::kNoSpace) {
    return refused;
  }
  {
    TENAX_TRY(Database damaged,
              open_database(path, salvage_journal ? OpenAs::kSalvage : OpenAs::kRepair, env));
    TENAX_RETURN_IF_ERROR(drop_damaged(damaged, path, env, dropped));
  }
  return open_database(path, OpenAs::kPrimary, env);
}

}  // namespace tenax::checkpoint
