#include "checkpoint/store.h"

#include <fmt/format.h>
#include <rocksdb/convenience.h>
#include <rocksdb/write_batch.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "checkpoint/files.h"
#include "checkpoint/pin.h"
#include "checkpoint/repair.h"
#include "checkpoint/rocks_db.h"
#include "checkpoint/shard_key.h"

namespace tenax::checkpoint {

namespace {

Status make_directories(const std::string& run_path) {
  TENAX_RETURN_IF_ERROR(make_directory(run_path));
  for (const char* part : {"/staging", "/pins", "/records", "/chunks"}) {
    TENAX_RETURN_IF_ERROR(make_directory(run_path + part));
  }
  return sync_directory(run_path);
}

Error name_holder(const std::string& run_path, const Error& error) {
  const auto holder = read_holder(run_path);
  return make_error(
      ErrorCode::kInUse,
      fmt::format("store {} is held by {}", run_path,
                  holder ? describe(*holder) : "an unknown process: " + error.message));
}

}  // namespace

/// What one synced write changes.
struct Store::Batch {
  std::span<const JournalRecord> records;
  std::optional<std::string_view> state;
  const Manifest* commit = nullptr;
  const Manifest* replace = nullptr;
  std::optional<std::uint64_t> withdraw;
};

Store::Store(std::string path, std::unique_ptr<Database> database, StoreOptions options)
    : StoreView(std::move(path), std::move(database)),
      options_(std::move(options)),
      folder_(path_, options_.env) {}

Result<std::unique_ptr<Store>> Store::open(const std::string& run_path, StoreOptions options) {
  TENAX_RETURN_IF_ERROR(make_directories(run_path));
  auto records = open_records(records_path(run_path), OpenAs::kPrimary, options.env);
  if (!records && records.error().code == ErrorCode::kDataLoss && options.salvage_journal) {
    records = salvage_records(records_path(run_path), options.env);
  }
  if (!records) {
    if (records.error().code == ErrorCode::kInUse) return name_holder(run_path, records.error());
    return records.error();
  }
  OpenReport report;
  Rocks shards;
  if (has_shards(run_path)) {
    TENAX_TRY(shards, open_shards_or_repair(shards_path(run_path), options.env, report.dropped));
  }
  auto database = std::make_unique<Database>();
  database->records = *std::move(records);
  database->shards = std::move(shards);
  std::unique_ptr<Store> store(new Store(run_path, std::move(database), std::move(options)));
  store->open_report_ = std::move(report);
  TENAX_RETURN_IF_ERROR(write_holder(run_path, store->options_.holder));
  TENAX_TRY(store->last_seq_, store->last_journal_seq());
  // Of writers that died; one that still lives fails its checkpoint and writes it anew.
  TENAX_TRY(store->open_report_.num_staging_files, remove_files(store->staging_dir(), ""));
  TENAX_TRY(store->open_report_.swept, store->sweep());
  TENAX_RETURN_IF_ERROR(store->note_damage());
  return store;
}

Status Store::note_damage() {
  TENAX_TRY(const auto all, manifests());
  const auto sst_files = shard_files(database_->shards);
  for (const ManifestEntry& entry : all) {
    if (!entry.manifest) continue;
    for (std::string& wrong : check_files(chunks_path(path_), sst_files, *entry.manifest)) {
      open_report_.dropped.push_back(
          fmt::format("checkpoint {}: {}", entry.checkpoint_id, std::move(wrong)));
    }
  }
  return {};
}

std::string Store::staging_dir() const { return path_ + "/staging"; }

Status Store::write(Batch& batch, Durability durability) {
  std::uint64_t before = last_seq_.value_or(0);
  bool any = last_seq_.has_value();
  if (!database_->records.db) TENAX_RETURN_IF_ERROR(recover_records());
  rocksdb::WriteBatch updates;
  for (const JournalRecord& r : batch.records) {
    if (any && r.seq <= before) {
      return make_error(ErrorCode::kInvalidArgument,
                        fmt::format("journal record {} after record {}", r.seq, before));
    }
    before = r.seq;
    any = true;
    TENAX_RETURN_IF_ERROR(to_status(
        updates.Put(database_->family(kJournal), encode_id(r.seq), r.bytes), "journal", path_));
  }
  const auto put = [&](Family family, const std::string& key, std::string_view value) {
    return to_status(
        updates.Put(database_->family(family), key, rocksdb::Slice(value.data(), value.size())),
        "write to", path_);
  };
  if (batch.state) TENAX_RETURN_IF_ERROR(put(kMeta, kStateKey, *batch.state));
  for (const std::uint64_t id : undecided_) {
    TENAX_RETURN_IF_ERROR(to_status(updates.Delete(database_->family(kManifests), encode_id(id)),
                                    "withdraw manifest in", path_));
  }
  if (batch.withdraw) {
    TENAX_RETURN_IF_ERROR(
        to_status(updates.Delete(database_->family(kManifests), encode_id(*batch.withdraw)),
                  "withdraw manifest in", path_));
  }
  if (batch.commit != nullptr) {
    const std::string id = encode_id(batch.commit->checkpoint_id);
    TENAX_RETURN_IF_ERROR(put(kManifests, id, encode_manifest(*batch.commit)));
    TENAX_RETURN_IF_ERROR(put(kMeta, kHighestIdKey, id));
  }
  if (batch.replace != nullptr) {
    TENAX_RETURN_IF_ERROR(
        put(kManifests, encode_id(batch.replace->checkpoint_id), encode_manifest(*batch.replace)));
  }

  TENAX_RETURN_IF_ERROR(reach(options_.hook, "journal.write"));
  rocksdb::WriteOptions how;
  how.sync = durability == Durability::kSynced || !undecided_.empty();
  rocksdb::Status status = database_->records.db->Write(how, &updates);
  if (!status.ok()) {
    const Error first = from_rocks(status, "write to", path_);
    // On a full disk RocksDB recovers by itself as soon as there is space; until then it must be
    // left alone.
    if (first.code == ErrorCode::kNoSpace || !recover_records()) return first;
    status = database_->records.db->Write(how, &updates);
  }
  TENAX_RETURN_IF_ERROR(to_status(status, "write to", path_));

  if (!batch.records.empty()) last_seq_ = before;
  const std::set<std::uint64_t> withdrawn = std::exchange(undecided_, {});
  for (const std::uint64_t id : withdrawn) {
    // Data that cannot be freed now has no manifest, and sweep() finds it.
    static_cast<void>(delete_data(id));
  }
  return {};
}

Status Store::recover_records() {
  if (database_->records.db && database_->records.db->Resume().ok()) return {};
  // What failed to be synced may be in the log or not; a new log is started behind what opening
  // finds.
  const std::unique_lock lock(mutex_);
  database_->records = Rocks();
  TENAX_TRY(database_->records, open_records(records_path(path_), OpenAs::kPrimary, options_.env));
  return {};
}

Status Store::recover_shards() {
  if (database_->shards.db && database_->shards.db->Resume().ok()) return {};
  const std::unique_lock lock(mutex_);
  database_->shards = Rocks();
  TENAX_TRY(database_->shards,
            open_shards_or_repair(shards_path(path_), options_.env, open_report_.dropped));
  return {};
}

Status Store::append_journal(std::span<const JournalRecord> records,
                             std::optional<std::string_view> state, Durability durability) {
  Batch batch;
  batch.records = records;
  batch.state = state;
  return write(batch, durability);
}

Status Store::check_new(const Manifest& manifest, std::span<const ShardFile> files) const {
  const auto invalid = [&](const std::string& what) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("commit checkpoint {} (branch {}, step {}): {}",
                                  manifest.checkpoint_id, manifest.branch, manifest.step, what));
  };
  TENAX_TRY(const std::uint64_t highest, highest_checkpoint_id());
  if (manifest.checkpoint_id <= highest || manifest.checkpoint_id == UINT64_MAX) {
    return invalid(fmt::format("the id was used before; the highest so far is {}", highest));
  }
  const std::vector<std::string> gaps = find_gaps(manifest);
  if (!gaps.empty()) {
    return invalid(fmt::format("{} problems, the first: {}", gaps.size(), gaps.front()));
  }
  if (files.size() != manifest.files.size()) {
    return invalid(fmt::format("{} files in staging, the manifest names {}", files.size(),
                               manifest.files.size()));
  }
  for (const ShardFile& f : files) {
    const auto named =
        std::find_if(manifest.files.begin(), manifest.files.end(),
                     [&](const StoredFile& m) { return m.name == f.name && m.bytes == f.bytes; });
    if (named == manifest.files.end()) return invalid(f.path + " is not in the manifest");
    if (!f.name.starts_with(fmt::format("{}-", manifest.checkpoint_id))) {
      return invalid(f.path + " is of another checkpoint");
    }
    struct stat info {};
    if (::stat(f.path.c_str(), &info) != 0) return invalid(f.path + " is gone");
    if (static_cast<std::uint64_t>(info.st_size) != f.bytes) {
      return invalid(fmt::format("{}: expected {} bytes, got {}", f.path, f.bytes, info.st_size));
    }
  }
  return {};
}

void Store::discard(const Manifest& manifest, std::span<const ShardFile> files,
                    bool manifest_tried) {
  for (const ShardFile& f : files) ::unlink(f.path.c_str());
  if (manifest_tried) {
    undecided_.insert(manifest.checkpoint_id);
  } else {
    // What cannot be freed now has no manifest, and sweep() finds it.
    static_cast<void>(delete_data(manifest.checkpoint_id));
  }
}

Status Store::commit(const Manifest& manifest, std::span<const ShardFile> files,
                     std::span<const JournalRecord> records,
                     std::optional<std::string_view> state) {
  TENAX_RETURN_IF_ERROR(check_new(manifest, files));
  bool manifest_tried = false;
  const auto save = [&]() -> Status {
    TENAX_RETURN_IF_ERROR(reach(options_.hook, "commit.ingest"));
    std::vector<std::string> paths;
    for (const ShardFile& f : files) paths.push_back(f.path);
    TENAX_RETURN_IF_ERROR(folder_.adopt(paths));
    TENAX_RETURN_IF_ERROR(reach(options_.hook, "commit.ingested"));
    TENAX_RETURN_IF_ERROR(reach(options_.hook, "commit.manifest"));
    Batch batch;
    batch.records = records;
    batch.state = state;
    batch.commit = &manifest;
    manifest_tried = true;
    return write(batch, Durability::kSynced);
  };
  if (const Status saved = save(); !saved) {
    discard(manifest, files, manifest_tried);
    return saved.error().within(fmt::format("commit checkpoint {} (branch {}, step {})",
                                            manifest.checkpoint_id, manifest.branch,
                                            manifest.step));
  }
  // It is committed: nothing after this may take it back.
  static_cast<void>(reach(options_.hook, "commit.done"));
  return {};
}

Status Store::delete_data(std::uint64_t checkpoint_id) {
  TENAX_RETURN_IF_ERROR(folder_.remove(checkpoint_id));
  return has_shards(path_) ? delete_old_format(checkpoint_id) : Status();
}

Status Store::delete_old_format(std::uint64_t checkpoint_id) {
  const std::string begin = encode_id(checkpoint_id);
  const std::string end = encode_id(checkpoint_id + 1);
  const rocksdb::Slice begin_slice(begin);
  const rocksdb::Slice end_slice(end);
  const auto drop = [&] {
    return rocksdb::DeleteFilesInRange(database_->shards.db.get(),
                                       database_->shards.db->DefaultColumnFamily(), &begin_slice,
                                       &end_slice, false);
  };
  if (!database_->shards.db) TENAX_RETURN_IF_ERROR(recover_shards());
  rocksdb::Status status = drop();
  if (!status.ok() && !status.IsNoSpace() && recover_shards()) status = drop();
  return to_status(status, fmt::format("free checkpoint {} in", checkpoint_id), path_);
}

Status Store::remove(std::uint64_t checkpoint_id, std::span<const JournalRecord> records) {
  const std::string doing = fmt::format("remove checkpoint {}", checkpoint_id);
  if (!database_->records.db) TENAX_RETURN_IF_ERROR(recover_records());
  std::string found;
  const auto status = database_->records.db->Get(
      rocksdb::ReadOptions(), database_->family(kManifests), encode_id(checkpoint_id), &found);
  if (status.IsNotFound()) {
    return make_error(ErrorCode::kNotFound, doing + ": it has no manifest");
  }
  TENAX_RETURN_IF_ERROR(to_status(status, doing + " from", path_));
  TENAX_TRY(const bool pinned, is_pinned(path_, checkpoint_id));
  if (pinned) return make_error(ErrorCode::kInUse, doing + ": a reader has it pinned");

  TENAX_RETURN_IF_ERROR(reach(options_.hook, "remove.withdraw"));
  Batch batch;
  batch.records = records;
  batch.withdraw = checkpoint_id;
  TENAX_RETURN_IF_ERROR(write(batch, Durability::kSynced));
  TENAX_RETURN_IF_ERROR(reach(options_.hook, "remove.withdrawn"));
  // A pin taken before the withdrawal saw the manifest: its data stays until a sweep after the pin.
  TENAX_TRY(const bool pinned_late, is_pinned(path_, checkpoint_id));
  if (pinned_late) return {};
  TENAX_RETURN_IF_ERROR(reach(options_.hook, "remove.files"));
  TENAX_RETURN_IF_ERROR(delete_data(checkpoint_id));
  return reach(options_.hook, "remove.done");
}

Status Store::record_weights_hash(std::uint64_t checkpoint_id, Hash128 hash) {
  TENAX_TRY(Manifest found, manifest(checkpoint_id));
  found.weights_hash = hash;
  Batch batch;
  batch.replace = &found;
  return write(batch, Durability::kSynced);
}

Result<std::set<std::uint64_t>> Store::ids_with_files() const {
  std::set<std::uint64_t> ids;
  TENAX_TRY(const auto files, folder_.list());
  for (const ChunkFileInfo& file : files) ids.insert(file.checkpoint_id);
  for (const LiveFile& file : shard_files(database_->shards)) {
    TENAX_TRY(const std::uint64_t id, decode_id(file.first_key));
    ids.insert(id);
  }
  return ids;
}

Result<std::vector<std::uint64_t>> Store::sweep() {
  if (!database_->records.db) TENAX_RETURN_IF_ERROR(recover_records());
  if (!database_->shards.db && has_shards(path_)) TENAX_RETURN_IF_ERROR(recover_shards());
  TENAX_TRY(const auto ids, ids_with_files());
  std::set<std::uint64_t> orphans;
  for (const std::uint64_t id : ids) {
    std::string found;
    const auto status = database_->records.db->Get(
        rocksdb::ReadOptions(), database_->family(kManifests), encode_id(id), &found);
    if (status.IsNotFound()) {
      if (!undecided_.contains(id)) orphans.insert(id);
    } else {
      TENAX_RETURN_IF_ERROR(to_status(status, "sweep", path_));
    }
  }
  std::vector<std::uint64_t> swept;
  for (const std::uint64_t id : orphans) {
    TENAX_TRY(const bool pinned, is_pinned(path_, id));
    if (pinned) continue;
    TENAX_RETURN_IF_ERROR(delete_data(id));
    swept.push_back(id);
  }
  return swept;
}

Result<SpaceInfo> Store::space() const {
  struct statvfs info {};
  if (::statvfs(path_.c_str(), &info) != 0) return from_errno("look at", path_, errno);
  SpaceInfo space;
  space.total_bytes = static_cast<std::uint64_t>(info.f_blocks) * info.f_frsize;
  space.free_bytes = static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  TENAX_TRY(const auto files, folder_.list());
  for (const ChunkFileInfo& f : files) space.checkpoint_bytes += f.bytes;
  const std::shared_lock lock(mutex_);
  for (const LiveFile& f : shard_files(database_->shards)) space.checkpoint_bytes += f.bytes;
  return space;
}

}  // namespace tenax::checkpoint
