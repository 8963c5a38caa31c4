// What can be read from a store, the same for its owner (Store) and for other processes
// (StoreReader): manifests, journal, state, chunks. Reads may come from any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "checkpoint/chunk_source.h"
#include "checkpoint/manifest.h"
#include "checkpoint/verify.h"
#include "common/result.h"

namespace tenax::checkpoint {

struct Database;

/// One entry of the run's journal; `bytes` mean nothing to the store.
struct JournalRecord {
  std::uint64_t seq = 0;
  std::string bytes;
  bool operator==(const JournalRecord&) const = default;
};

/// A committed checkpoint. A manifest that cannot be decoded (newer format, damage) is listed with
/// its error, so that one bad entry hides no good ones.
struct ManifestEntry {
  std::uint64_t checkpoint_id = 0;
  Result<Manifest> manifest;
};

class StoreView : public ChunkSource {
 public:
  ~StoreView() override;

  /// Rising checkpoint_id.
  Result<std::vector<ManifestEntry>> manifests() const;
  /// kNotFound: not committed (or removed).
  Result<Manifest> manifest(std::uint64_t checkpoint_id) const;
  /// Highest id that was ever committed or removed; 0 if none. New ones must be higher.
  Result<std::uint64_t> highest_checkpoint_id() const;

  /// Records with seq >= from_seq in order, at most `max_records`.
  Result<std::vector<JournalRecord>> read_journal(std::uint64_t from_seq,
                                                  std::size_t max_records = SIZE_MAX) const;
  /// Nothing if the journal is empty.
  Result<std::optional<std::uint64_t>> last_journal_seq() const;
  /// The last state blob; nothing if none was written.
  Result<std::optional<std::string>> state() const;

  /// Compares a checkpoint with its manifest (C2). An error means that the comparison could not be
  /// made.
  Result<VerifyReport> verify(std::uint64_t checkpoint_id, VerifyDepth depth) const;

  Result<std::span<const std::byte>> read_chunk(const Manifest& manifest, const StoredShard& shard,
                                                std::uint32_t index,
                                                ChunkBuffer& buffer) const override;
  std::string locate(const Manifest& manifest, const StoredShard& shard,
                     std::uint32_t index) const override;

 protected:
  StoreView(std::string path, std::unique_ptr<Database> database);

  std::string path_;
  std::unique_ptr<Database> database_;
  /// Held shared by reads; exclusively by an owner that closes and opens a database again after an
  /// I/O error.
  mutable std::shared_mutex mutex_;

 private:
  /// kUnavailable while the database could not be opened again.
  Status check_open() const;
  /// Of format 1.
  Result<std::span<const std::byte>> read_from_rocksdb(const std::string& key,
                                                       ChunkBuffer& buffer) const;
};

}  // namespace tenax::checkpoint
