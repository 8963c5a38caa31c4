// A file layer for crash tests in process: every change of a file is counted; from a chosen one on
// all fail, as if the machine had died; afterwards what was never synced can be taken away, as a
// power failure would.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

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

  /// Cuts every file that this layer wrote to its last synced size. Call with all files closed.
  void lose_unsynced();

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

  /// ok, or the injected error.
  rocksdb::IOStatus change(bool is_sync);
  void note_synced(const std::string& name, std::uint64_t bytes);

 private:
  std::atomic<std::uint64_t> changes_ = 0;
  std::atomic<bool> fired_ = false;
  std::uint64_t fail_at_ = 0;
  Fault fault_ = Fault::kDead;
  std::mutex mutex_;
  std::map<std::string, std::uint64_t> synced_;  // bytes that survive a power failure
};

}  // namespace tenax::checkpoint
