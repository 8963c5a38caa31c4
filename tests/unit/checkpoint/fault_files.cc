#include "tests/unit/checkpoint/fault_files.h"

#include <filesystem>
#include <system_error>

#include "checkpoint/direct_files.h"

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

/// Tells the layer when a folder was synced.
class FaultDirectory final : public rocksdb::FSDirectoryWrapper {
 public:
  FaultDirectory(std::unique_ptr<rocksdb::FSDirectory> directory, std::string name,
                 FaultFiles& files)
      : rocksdb::FSDirectoryWrapper(std::move(directory)), name_(std::move(name)), files_(files) {}
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* debug) override {
    return synced(rocksdb::FSDirectoryWrapper::Fsync(options, debug));
  }
  rocksdb::IOStatus FsyncWithDirOptions(const rocksdb::IOOptions& options,
                                        rocksdb::IODebugContext* debug,
                                        const rocksdb::DirFsyncOptions& how) override {
    return synced(rocksdb::FSDirectoryWrapper::FsyncWithDirOptions(options, debug, how));
  }

 private:
  rocksdb::IOStatus synced(rocksdb::IOStatus status) {
    const auto fault = files_.change(true);
    if (!fault.ok()) return fault;
    if (status.ok()) files_.note_directory_synced(name_);
    return status;
  }

  std::string name_;
  FaultFiles& files_;
};

std::string folder_of(const std::string& name) { return name.substr(0, name.rfind('/')); }

}  // namespace

FaultFiles::FaultFiles()
    : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()), direct_(direct_files()) {}

void FaultFiles::arm(std::uint64_t n, Fault fault) {
  changes_ = 0;
  fired_ = false;
  fail_at_ = n;
  fault_ = fault;
}

rocksdb::IOStatus FaultFiles::change(bool is_sync) {
  const std::uint64_t n = ++changes_;
  if (dead_) return rocksdb::IOStatus::IOError("injected: the machine is dead");
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

void FaultFiles::note_directory_synced(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  std::erase_if(name_changes_, [&](const NameChange& c) {
    return c.directory == directory || c.directory + "/" == directory;
  });
}

std::string FaultFiles::keep(const std::string& name) {
  const std::string kept = kept_ / std::to_string(++num_kept_);
  std::error_code missing;
  std::filesystem::create_hard_link(name, kept, missing);
  return missing ? std::string() : kept;
}

void FaultFiles::undo(const NameChange& c) {
  std::error_code ignored;  // what is undone may itself be gone by a change that was kept
  if (!c.came_from.empty()) {
    std::filesystem::rename(c.name, c.came_from, ignored);
    if (const auto it = synced_.find(c.name); it != synced_.end()) {
      synced_[c.came_from] = it->second;
      synced_.erase(it);
    }
  } else if (!c.gone) {
    std::filesystem::remove(c.name, ignored);
    synced_.erase(c.name);
  }
  if (c.replaced.empty()) return;
  std::filesystem::rename(c.replaced, c.name, ignored);
  synced_[c.name] = c.replaced_synced;
}

void FaultFiles::lose_unsynced(std::mt19937_64& rng) {
  const std::lock_guard lock(mutex_);
  const std::size_t kept = rng() % (name_changes_.size() + 1);
  while (name_changes_.size() > kept) {
    undo(name_changes_.back());
    name_changes_.pop_back();
  }
  name_changes_.clear();
  for (const auto& [name, bytes] : synced_) {
    std::error_code missing;
    const auto size = std::filesystem::file_size(name, missing);
    if (missing || size <= bytes) continue;
    const std::uint64_t stays = bytes + rng() % (size - bytes + 1);
    std::filesystem::resize_file(name, stays);
    // Here and there the size was safe and the bytes were not. Not of RocksDB's logs: it refuses
    // one that ends in zeros, and file systems write a log's bytes before its size.
    if (name.ends_with(".chunks") && rng() % 4 == 0) std::filesystem::resize_file(name, size);
  }
  synced_.clear();
}

rocksdb::IOStatus FaultFiles::NewDirectory(const std::string& name,
                                           const rocksdb::IOOptions& options,
                                           std::unique_ptr<rocksdb::FSDirectory>* result,
                                           rocksdb::IODebugContext* debug) {
  std::unique_ptr<rocksdb::FSDirectory> directory;
  const auto status = target()->NewDirectory(name, options, &directory, debug);
  if (!status.ok()) return status;
  *result = std::make_unique<FaultDirectory>(std::move(directory), name, *this);
  return status;
}

rocksdb::IOStatus FaultFiles::NewWritableFile(const std::string& name,
                                              const rocksdb::FileOptions& options,
                                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                                              rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  std::unique_ptr<rocksdb::FSWritableFile> file;
  const bool existed = std::filesystem::exists(name);
  // As the product writes shard files.
  const bool staged = name.find("/staging/") != std::string::npos;
  const auto status =
      (staged ? direct_.get() : target())->NewWritableFile(name, options, &file, debug);
  if (!status.ok()) return status;
  note_synced(name, 0);
  if (!existed) {
    const std::lock_guard lock(mutex_);
    name_changes_.push_back({folder_of(name), name, {}, {}, 0, false});
  }
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
  const std::lock_guard lock(mutex_);
  NameChange made{folder_of(to), to, from, keep(to), 0, false};
  if (const auto it = synced_.find(to); it != synced_.end()) made.replaced_synced = it->second;
  const auto status = target()->RenameFile(from, to, options, debug);
  if (!status.ok()) return status;
  if (const auto it = synced_.find(from); it != synced_.end()) {
    synced_[to] = it->second;
    synced_.erase(from);
  }
  name_changes_.push_back(std::move(made));
  return status;
}

rocksdb::IOStatus FaultFiles::LinkFile(const std::string& from, const std::string& to,
                                       const rocksdb::IOOptions& options,
                                       rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  const auto status = target()->LinkFile(from, to, options, debug);
  const std::lock_guard lock(mutex_);
  if (!status.ok()) return status;
  if (const auto it = synced_.find(from); it != synced_.end()) synced_[to] = it->second;
  name_changes_.push_back({folder_of(to), to, {}, {}, 0, false});
  return status;
}

rocksdb::IOStatus FaultFiles::DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                                         rocksdb::IODebugContext* debug) {
  const auto fault = change(false);
  if (!fault.ok()) return fault;
  const std::lock_guard lock(mutex_);
  NameChange made{folder_of(name), name, {}, keep(name), 0, true};
  if (const auto it = synced_.find(name); it != synced_.end()) made.replaced_synced = it->second;
  const auto status = target()->DeleteFile(name, options, debug);
  if (!status.ok()) return status;
  synced_.erase(name);
  name_changes_.push_back(std::move(made));
  return status;
}

}  // namespace tenax::checkpoint
