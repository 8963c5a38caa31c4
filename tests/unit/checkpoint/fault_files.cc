#include "tests/unit/checkpoint/fault_files.h"

#include <filesystem>
#include <system_error>

namespace tenax::checkpoint {

namespace {

class FaultFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FaultFile(std::unique_ptr<rocksdb::FSWritableFile> file, std::string name, std::uint64_t bytes,
            FaultFiles& files)
      : rocksdb::FSWritableFileOwnerWrapper(std::move(file)),
        name_(std::move(name)),
        bytes_(bytes),
        files_(files) {}

  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) override {
    const auto fault = files_.change(false);
    if (!fault.ok()) return fault;
    bytes_ += data.size();
    return target()->Append(data, options, debug);
  }
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           const rocksdb::DataVerificationInfo&,
                           rocksdb::IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                         rocksdb::IODebugContext* debug) override {
    return synced(target()->Sync(options, debug));
  }
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* debug) override {
    return synced(target()->Fsync(options, debug));
  }

 private:
  rocksdb::IOStatus synced(rocksdb::IOStatus status) {
    const auto fault = files_.change(true);
    if (!fault.ok()) return fault;
    if (status.ok()) files_.note_synced(name_, bytes_);
    return status;
  }

  std::string name_;
  std::uint64_t bytes_;
  FaultFiles& files_;
};

}  // namespace

FaultFiles::FaultFiles() : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()) {}

void FaultFiles::arm(std::uint64_t n, Fault fault) {
  changes_ = 0;
  fired_ = false;
  fail_at_ = n;
  fault_ = fault;
}

rocksdb::IOStatus FaultFiles::change(bool is_sync) {
  const std::uint64_t n = ++changes_;
  if (fail_at_ == 0) return rocksdb::IOStatus::OK();
  if (fault_ == Fault::kDead && n >= fail_at_) {
    fired_ = true;
    return rocksdb::IOStatus::IOError("injected: the disk is gone");
  }
  if (fault_ == Fault::kSyncOnce && is_sync && n >= fail_at_ && !fired_.exchange(true)) {
    return rocksdb::IOStatus::IOError("injected: sync failed");
  }
  return rocksdb::IOStatus::OK();
}

void FaultFiles::note_synced(const std::string& name, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  synced_[name] = bytes;
}

void FaultFiles::lose_unsynced() {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, bytes] : synced_) {
    std::error_code missing;
    const auto size = std::filesystem::file_size(name, missing);
    if (!missing && size > bytes) std::filesystem::resize_file(name, bytes);
  }
  synced_.clear();
}

rocksdb::IOStatus FaultFiles::NewWritableFile(const std::string& name,
                                              const rocksdb::FileOptions& options,
                                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                                              rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  std::unique_ptr<rocksdb::FSWritableFile> file;
  const auto status = target()->NewWritableFile(name, options, &file, debug);
  if (!status.ok()) return status;
  note_synced(name, 0);
  *result = std::make_unique<FaultFile>(std::move(file), name, 0, *this);
  return status;
}

rocksdb::IOStatus FaultFiles::ReopenWritableFile(const std::string& name,
                                                 const rocksdb::FileOptions& options,
                                                 std::unique_ptr<rocksdb::FSWritableFile>* result,
                                                 rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  std::error_code missing;
  const auto size = std::filesystem::file_size(name, missing);
  std::unique_ptr<rocksdb::FSWritableFile> file;
  const auto status = target()->ReopenWritableFile(name, options, &file, debug);
  if (!status.ok()) return status;
  *result = std::make_unique<FaultFile>(std::move(file), name, missing ? 0 : size, *this);
  return status;
}

rocksdb::IOStatus FaultFiles::RenameFile(const std::string& from, const std::string& to,
                                         const rocksdb::IOOptions& options,
                                         rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  const auto status = target()->RenameFile(from, to, options, debug);
  const std::lock_guard lock(mutex_);
  if (const auto it = synced_.find(from); status.ok() && it != synced_.end()) {
    synced_[to] = it->second;
    synced_.erase(from);
  }
  return status;
}

rocksdb::IOStatus FaultFiles::LinkFile(const std::string& from, const std::string& to,
                                       const rocksdb::IOOptions& options,
                                       rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  const auto status = target()->LinkFile(from, to, options, debug);
  const std::lock_guard lock(mutex_);
  if (const auto it = synced_.find(from); status.ok() && it != synced_.end()) {
    synced_[to] = it->second;
  }
  return status;
}

rocksdb::IOStatus FaultFiles::DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                                         rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  const auto status = target()->DeleteFile(name, options, debug);
  const std::lock_guard lock(mutex_);
  if (status.ok()) synced_.erase(name);
  return status;
}

}  // namespace tenax::checkpoint
