// The store of a run: journal and manifests in a RocksDB, owned by the one process that holds its
// LOCK, and the tensors' bytes in chunk files beside it.
//
//   <run>/records/  the database: families default (state), journal, manifests, all with a
//                   write-ahead log, synced
//   <run>/chunks/   files with the bytes; each belongs to one checkpoint, comes and goes whole
//   <run>/staging/  files being written by agents
//   <run>/pins/     readers' pins
//   <run>/HOLDER    who holds the LOCK
//   <run>/shards/   only in runs of format 1: a RocksDB whose SST files hold the bytes; read, and
//                   emptied by retention
//
// Only a manifest makes a checkpoint exist. Writing calls block for the disk and belong to one
// thread (the store thread); what StoreView offers may be called from others at the same time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/chunk_folder.h"
#include "checkpoint/holder.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard_writer.h"
#include "checkpoint/step_hook.h"
#include "checkpoint/store_view.h"
#include "common/result.h"

namespace tenax::checkpoint {

enum class Durability {
  kSynced,   ///< survives a power failure when the call returns
  kWritten,  ///< survives a crash of this process; a later synced write covers it
};

struct StoreOptions {
  HolderInfo holder;  ///< of this process
  /// Accept a journal with a damaged record: it ends before it. Only after a refusal, by the
  /// operator.
  bool salvage_journal = false;
  StepHook hook;
  rocksdb::Env* env = nullptr;  ///< null: the machine's files
};

/// What open() found and put in order.
struct OpenReport {
  std::vector<std::uint64_t>
      swept;  ///< checkpoints whose data had no manifest: crashes in mid-commit or mid-removal
  int num_staging_files = 0;  ///< that were removed
  std::vector<std::string>
      dropped;  ///< files of committed checkpoints that are damaged: missing, cut or, of format 1,
                ///< not even readable and therefore gone; their checkpoints fail verify()
};

struct SpaceInfo {
  std::uint64_t total_bytes = 0;       ///< of the file system
  std::uint64_t free_bytes = 0;        ///< for this user
  std::uint64_t checkpoint_bytes = 0;  ///< of all their files
};

class Store final : public StoreView {
 public:
  /// Creates the directory if need be. kInUse, naming the holder, while another process (or this
  /// one) has it open; kDataLoss if the journal is damaged; kPermission, kNoSpace, kIo with the
  /// path.
  static Result<std::unique_ptr<Store>> open(const std::string& run_path, StoreOptions options);

  const OpenReport& open_report() const { return open_report_; }
  std::string staging_dir() const;

  /// Writes the records and the new state, if any, atomically. Records of one call rise in seq and
  /// follow all acknowledged ones. After an I/O error the database is opened again and the write
  /// repeated once. If that fails too, repeat the same call: until it succeeds, a crash may keep
  /// the records or lose them, but all of them together.
  Status append_journal(std::span<const JournalRecord> records,
                        std::optional<std::string_view> state = std::nullopt,
                        Durability durability = Durability::kSynced);

  /// Makes a checkpoint exist: takes `files` (those in staging that add_to_manifest() named) in
  /// durably, then writes manifest, records and state in one synced write.
  /// kInvalidArgument, before anything is touched, if the manifest has gaps (find_gaps) or its id
  /// is not higher than every earlier one of a committed checkpoint. After any error the checkpoint
  /// does not exist, its files are gone, and it must be written anew under a new id.
  Status commit(const Manifest& manifest, std::span<const ShardFile> files,
                std::span<const JournalRecord> records,
                std::optional<std::string_view> state = std::nullopt);

  /// Withdraws the manifest (with the records, in one synced write), then frees the bytes. kInUse
  /// while a reader pins it; kNotFound. An error after the withdrawal leaves data that sweep()
  /// removes.
  Status remove(std::uint64_t checkpoint_id, std::span<const JournalRecord> records);

  /// Stores hash_checkpoint() with the manifest, once a background reader has it.
  Status record_weights_hash(std::uint64_t checkpoint_id, Hash128 hash);

  /// Removes shard data without a manifest that nobody pins. Returns the checkpoints. open() calls
  /// it too.
  Result<std::vector<std::uint64_t>> sweep();

  Result<SpaceInfo> space() const;

 private:
  Store(std::string path, std::unique_ptr<Database> database, StoreOptions options);

  Status check_new(const Manifest& manifest, std::span<const ShardFile> files) const;
  Status delete_data(std::uint64_t checkpoint_id);
  void discard(const Manifest& manifest, std::span<const ShardFile> files, bool manifest_tried);
  struct Batch;
  Status write(Batch& batch, Durability durability);
  Status recover_records();
  Status recover_shards();
  Status delete_old_format(std::uint64_t checkpoint_id);
  /// Checkpoints that have files, in no order.
  Result<std::set<std::uint64_t>> ids_with_files() const;
  Status note_damage();

  StoreOptions options_;
  OpenReport open_report_;
  ChunkFolder folder_;
  std::optional<std::uint64_t> last_seq_;
  /// Checkpoints whose manifest's write failed and may yet be in the log: the next write withdraws
  /// it before their data goes.
  std::set<std::uint64_t> undecided_;
};

/// Where RocksDB's own files of a run are.
std::string records_path(const std::string& run_path);

}  // namespace tenax::checkpoint
