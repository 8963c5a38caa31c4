#include "checkpoint/store_reader.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <thread>
#include <utility>

#include "checkpoint/rocks_db.h"
#include "checkpoint/store.h"

namespace tenax::checkpoint {

namespace {

/// Changes whenever a memtable was flushed or a file came or went: only then are log files deleted.
std::string version_of(const std::string& database_path) {
  std::ifstream current(database_path + "/CURRENT");
  std::string manifest;
  std::getline(current, manifest);
  struct stat info {};
  if (::stat((database_path + "/" + manifest).c_str(), &info) != 0) return manifest;
  return fmt::format("{} {}", manifest, info.st_size);
}

}  // namespace

StoreReader::StoreReader(std::string path, std::unique_ptr<Database> database)
    : StoreView(std::move(path), std::move(database)) {}

Result<std::unique_ptr<StoreReader>> StoreReader::open_read_only(const std::string& run_path) {
  const std::string records_in = records_path(run_path);
  struct stat info {};
  if (::stat((records_in + "/CURRENT").c_str(), &info) != 0) {
    return make_error(ErrorCode::kNotFound, fmt::format("{}: no store here", run_path));
  }
  Error last = make_error(ErrorCode::kUnavailable, "it changed during every attempt");
  for (int attempt = 0; attempt < 50; ++attempt) {
    if (attempt > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    // A log that is deleted between RocksDB's look at its manifest and at the logs would leave a
    // hole in the journal.
    const std::string before = version_of(records_in);
    auto records = open_records(records_in, OpenAs::kReadOnly, nullptr);
    if (records && version_of(records_in) != before) continue;
    // After the records, so that the shards of every manifest that was seen are seen too.
    Result<Rocks> shards = Rocks();
    if (has_shards(run_path)) {
      shards = open_shards(shards_path(run_path), OpenAs::kReadOnly, nullptr);
    }
    if (records && shards) {
      auto database = std::make_unique<Database>();
      database->records = *std::move(records);
      database->shards = *std::move(shards);
      return std::unique_ptr<StoreReader>(new StoreReader(run_path, std::move(database)));
    }
    last = records ? shards.error() : records.error();
  }
  return last.within(fmt::format("open {} to read", run_path));
}

Result<Pin> StoreReader::pin(std::uint64_t checkpoint_id) const {
  return Pin::take(path_, checkpoint_id);
}

}  // namespace tenax::checkpoint
