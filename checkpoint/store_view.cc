#include "checkpoint/store_view.h"

#include <fmt/format.h>

#include <utility>

#include "checkpoint/chunk_folder.h"
#include "checkpoint/compression.h"
#include "checkpoint/rocks_db.h"
#include "checkpoint/shard_key.h"

namespace tenax::checkpoint {

namespace {

rocksdb::ReadOptions read_options() {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  return options;
}

}  // namespace

StoreView::StoreView(std::string path, std::unique_ptr<Database> database)
    : path_(std::move(path)), database_(std::move(database)) {}

StoreView::~StoreView() = default;

Status StoreView::check_open() const {
  if (database_->records.db) return {};
  return make_error(ErrorCode::kUnavailable,
                    fmt::format("store {} could not be opened again after an I/O error", path_));
}

Result<std::vector<ManifestEntry>> StoreView::manifests() const {
  const std::shared_lock lock(mutex_);
  TENAX_RETURN_IF_ERROR(check_open());
  std::vector<ManifestEntry> entries;
  const std::unique_ptr<rocksdb::Iterator> it(
      database_->records.db->NewIterator(read_options(), database_->family(kManifests)));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    TENAX_TRY(const std::uint64_t id, decode_id(it->key().ToStringView()));
    entries.push_back({id, decode_manifest(it->value().ToStringView())});
  }
  TENAX_RETURN_IF_ERROR(to_status(it->status(), "list manifests of", path_));
  return entries;
}

Result<Manifest> StoreView::manifest(std::uint64_t checkpoint_id) const {
  const std::shared_lock lock(mutex_);
  TENAX_RETURN_IF_ERROR(check_open());
  std::string bytes;
  const auto status = database_->records.db->Get(read_options(), database_->family(kManifests),
                                                 encode_id(checkpoint_id), &bytes);
  const std::string what = fmt::format("checkpoint {} of {}", checkpoint_id, path_);
  if (status.IsNotFound()) return make_error(ErrorCode::kNotFound, what + " has no manifest");
  TENAX_RETURN_IF_ERROR(to_status(status, "read manifest of", what));
  auto manifest = decode_manifest(bytes);
  if (!manifest) return manifest.error().within(what);
  return manifest;
}

Result<std::uint64_t> StoreView::highest_checkpoint_id() const {
  const std::shared_lock lock(mutex_);
  TENAX_RETURN_IF_ERROR(check_open());
  std::string bytes;
  const auto status =
      database_->records.db->Get(read_options(), database_->family(kMeta), kHighestIdKey, &bytes);
  if (status.IsNotFound()) return 0;
  TENAX_RETURN_IF_ERROR(to_status(status, "read highest checkpoint id of", path_));
  return decode_id(bytes);
}

Result<std::vector<JournalRecord>> StoreView::read_journal(std::uint64_t from_seq,
                                                           std::size_t max_records) const {
  const std::shared_lock lock(mutex_);
  TENAX_RETURN_IF_ERROR(check_open());
  std::vector<JournalRecord> records;
  const std::unique_ptr<rocksdb::Iterator> it(
      database_->records.db->NewIterator(read_options(), database_->family(kJournal)));
  for (it->Seek(encode_id(from_seq)); it->Valid() && records.size() < max_records; it->Next()) {
    TENAX_TRY(const std::uint64_t seq, decode_id(it->key().ToStringView()));
    records.push_back({seq, it->value().ToString()});
  }
  TENAX_RETURN_IF_ERROR(to_status(it->status(), "read journal of", path_));
  return records;
}

Result<std::optional<std::uint64_t>> StoreView::last_journal_seq() const {
  const std::shared_lock lock(mutex_);
  TENAX_RETURN_IF_ERROR(check_open());
  const std::unique_ptr<rocksdb::Iterator> it(
      database_->records.db->NewIterator(read_options(), database_->family(kJournal)));
  it->SeekToLast();
  TENAX_RETURN_IF_ERROR(to_status(it->status(), "read journal of", path_));
  if (!it->Valid()) return std::optional<std::uint64_t>();
  TENAX_TRY(const std::uint64_t seq, decode_id(it->key().ToStringView()));
  return std::optional(seq);
}

Result<std::optional<std::string>> StoreView::state() const {
  const std::shared_lock lock(mutex_);
  TENAX_RETURN_IF_ERROR(check_open());
  std::string bytes;
  const auto status =
      database_->records.db->Get(read_options(), database_->family(kMeta), kStateKey, &bytes);
  if (status.IsNotFound()) return std::optional<std::string>();
  TENAX_RETURN_IF_ERROR(to_status(status, "read state of", path_));
  return std::optional(std::move(bytes));
}

Result<VerifyReport> StoreView::verify(std::uint64_t checkpoint_id, VerifyDepth depth) const {
  TENAX_TRY(const Manifest found, manifest(checkpoint_id));
  std::vector<LiveFile> files;
  {
    const std::shared_lock lock(mutex_);
    TENAX_RETURN_IF_ERROR(check_open());
    files = shard_files(database_->shards);
  }
  return verify_checkpoint(*this, chunks_path(path_), files, found, depth);
}

Result<std::span<const std::byte>> StoreView::read_chunk(const Manifest& manifest,
                                                         const StoredShard& shard,
                                                         std::uint32_t index,
                                                         ChunkBuffer& buffer) const {
  const Chunk& chunk = shard.chunks[index];
  if (chunk.file_offset == 0) {
    return read_from_rocksdb(encode_key({manifest.checkpoint_id, shard.writer, shard.shard.kind,
                                         shard.shard.name, shard.part, index}),
                             buffer);
  }
  TENAX_TRY(const auto file, RangeFile::open(locate(manifest, shard, index)));
  if (chunk.stored_bytes == 0) return file->read(chunk.file_offset, chunk.bytes, buffer.raw);
  TENAX_TRY(const auto frame, file->read(chunk.file_offset, chunk.stored_bytes, buffer.raw));
  return decompress(frame, chunk.bytes, buffer.plain);
}

Result<std::span<const std::byte>> StoreView::read_from_rocksdb(const std::string& key,
                                                                ChunkBuffer& buffer) const {
  const std::shared_lock lock(mutex_);
  TENAX_RETURN_IF_ERROR(check_open());
  if (!database_->shards.db) {
    return make_error(ErrorCode::kNotFound, shards_path(path_) + " does not exist");
  }
  auto value = std::make_shared<rocksdb::PinnableSlice>();
  const auto status = database_->shards.db->Get(
      read_options(), database_->shards.db->DefaultColumnFamily(), key, value.get());
  TENAX_RETURN_IF_ERROR(to_status(status, "read chunk from", path_));
  const auto bytes = std::as_bytes(std::span(value->data(), value->size()));
  buffer.pinned = std::move(value);
  return bytes;
}

std::string StoreView::locate(const Manifest& manifest, const StoredShard& shard,
                              std::uint32_t index) const {
  const Chunk& chunk = shard.chunks[index];
  if (chunk.file_offset != 0) {
    return fmt::format("{}/{}", chunks_path(path_),
                       chunk.file < manifest.files.size() ? manifest.files[chunk.file].name : "");
  }
  const std::string key = encode_key({manifest.checkpoint_id, shard.writer, shard.shard.kind,
                                      shard.shard.name, shard.part, index});
  const std::shared_lock lock(mutex_);
  for (const LiveFile& file : shard_files(database_->shards)) {
    if (file.first_key <= key && key <= file.last_key) return file.path;
  }
  return fmt::format("{} (in no file)", path_);
}

}  // namespace tenax::checkpoint
