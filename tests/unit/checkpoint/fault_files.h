// A file layer for crash tests in process: every change of a file is counted; from a chosen one on
// all fail, as if the machine had died; afterwards what was never synced can be taken away, as a
// power failure would: the ends of files, and names that came, went or changed since their folder
// was synced.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {

class FaultFiles final : public rocksdb::FileSystemWrapper {
 public:
  FaultFiles();

  static const char* kClassName() { return "FaultFiles"; }
  const char* Name() const override { return kClassName(); }

  enum class Fault {
    kDead,      ///< the n-th change and all after it fail
    kSyncOnce,  ///< the n-th change fails if it is a sync; everything else works
  };

  /// Counts from here; fails at the n-th change. n = 0: never.
  void arm(std::uint64_t n, Fault fault);
  std::uint64_t num_changes() const { return changes_; }
  bool fired() const { return fired_; }

  /// Every change from now on fails.
  void die() { dead_ = true; }

  /// The power fails: of each file that this layer wrote, what follows its last synced byte is cut
  /// off, kept in part or (in chunk files) replaced by zeros; of the changes of names since the
  /// last sync of their folder some are kept, and all after these undone. Call with all files
  /// closed.
  void lose_unsynced(std::mt19937_64& rng);

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* result,
                                       rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus LinkFile(const std::string& from, const std::string& to,
                             const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewDirectory(const std::string& name, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* result,
                                 rocksdb::IODebugContext* debug) override;

  /// ok, or the injected error.
  rocksdb::IOStatus change(bool is_sync);
  void note_synced(const std::string& name, std::uint64_t bytes);
  void note_directory_synced(const std::string& directory);

 private:
  /// A change of a name that its folder's next sync makes durable.
  struct NameChange {
    std::string directory;
    std::string name;
    std::string came_from;  // renamed from there
    std::string replaced;   // where what had this name before is kept; empty: nothing had it
    std::uint64_t replaced_synced = 0;
    bool gone = false;  // deleted
  };
  void undo(const NameChange& change);
  /// Keeps the file that has `name` from being freed; empty if there is none.
  std::string keep(const std::string& name);

  TempDir kept_;
  std::vector<NameChange> name_changes_;
  int num_kept_ = 0;
  std::atomic<bool> dead_ = false;
  std::shared_ptr<rocksdb::FileSystem> direct_;
  std::atomic<std::uint64_t> changes_ = 0;
  std::atomic<bool> fired_ = false;
  std::uint64_t fail_at_ = 0;
  Fault fault_ = Fault::kDead;
  std::mutex mutex_;
  std::map<std::string, std::uint64_t> synced_;  // bytes that survive a power failure
};

}  // namespace tenax::checkpoint
