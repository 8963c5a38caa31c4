#include "checkpoint/direct_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <utility>

#include "checkpoint/direct_io.h"

namespace tenax::checkpoint {

namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

/// 0 or errno.
int write_all(int fd, const std::byte* data, std::size_t bytes, std::uint64_t offset) {
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    data += n;
    bytes -= static_cast<std::size_t>(n);
    offset += static_cast<std::uint64_t>(n);
  }
  return 0;
}

class DirectFile final : public rocksdb::FSWritableFile {
 public:
  DirectFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {
    for (AlignedBuffer& b : buffers_) b = AlignedBuffer(kWriteBufferBytes);
  }
  ~DirectFile() override {
    static_cast<void>(finish_pending());
    if (fd_ >= 0) ::close(fd_);
  }

  using FSWritableFile::Append;
  IOStatus Append(const rocksdb::Slice& data, const IOOptions&, IODebugContext*) override {
    const char* from = data.data();
    std::size_t left = data.size();
    while (left > 0) {
      const std::size_t n = std::min(left, kWriteBufferBytes - filled_);
      std::memcpy(buffers_[current_].data() + filled_, from, n);
      filled_ += n;
      from += n;
      left -= n;
      if (filled_ == kWriteBufferBytes) {
        const IOStatus status = hand_over(filled_);
        if (!status.ok()) return status;
      }
    }
    return IOStatus::OK();
  }

  IOStatus Flush(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus RangeSync(std::uint64_t, std::uint64_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }

  IOStatus Sync(const IOOptions&, IODebugContext*) override {
    const std::uint64_t bytes = written_ + filled_;
    if (filled_ > 0) {
      // The last piece is padded to whole blocks and cut back to size.
      const std::size_t padded =
          (filled_ + kDirectAlignment - 1) / kDirectAlignment * kDirectAlignment;
      std::memset(buffers_[current_].data() + filled_, 0, padded - filled_);
      const IOStatus status = hand_over(padded);
      if (!status.ok()) return status;
    }
    if (const int error = finish_pending(); error != 0) return failed("write", error);
    if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) return failed("cut", errno);
    ended_ = written_ != bytes;
    written_ = bytes;
    // The whole of the metadata: the size has changed.
    if (::fsync(fd_) != 0) return failed("sync", errno);
    return IOStatus::OK();
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Sync(options, debug);
  }

  IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
    IOStatus status;
    if (filled_ > 0) status = Sync(options, debug);
    const int error = finish_pending();
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0 && status.ok()) return failed("close", errno);
    if (error != 0 && status.ok()) return failed("write", error);
    return status;
  }

  std::uint64_t GetFileSize(const IOOptions&, IODebugContext*) override {
    return written_ + filled_;
  }

 private:
  /// Starts writing the current buffer and turns to the other.
  IOStatus hand_over(std::size_t bytes) {
    if (ended_) return IOStatus::NotSupported(path_, "is appended to after its last piece");
    if (const int error = finish_pending(); error != 0) return failed("write", error);
    pending_ =
        std::async(std::launch::async, write_all, fd_, buffers_[current_].data(), bytes, written_);
    written_ += bytes;
    filled_ = 0;
    current_ = 1 - current_;
    return IOStatus::OK();
  }

  int finish_pending() {
    if (pending_.valid()) {
      if (const int error = pending_.get(); error != 0) error_ = error;
    }
    return error_;
  }

  IOStatus failed(const char* what, int error) const {
    const std::string words = std::string(what) + " " + path_;
    if (error == ENOSPC || error == EDQUOT) {
      IOStatus status = IOStatus::NoSpace(words, std::strerror(error));
      return status;
    }
    return IOStatus::IOError(words, std::strerror(error));
  }

  int fd_;
  std::string path_;
  AlignedBuffer buffers_[2];
  int current_ = 0;
  std::size_t filled_ = 0;     // of the current buffer
  std::uint64_t written_ = 0;  // handed over so far
  bool ended_ = false;         // the file does not end at a block
  int error_ = 0;              // the first; a file that failed once is not trusted again
  std::future<int> pending_;
};

class DirectFiles final : public rocksdb::FileSystemWrapper {
 public:
  DirectFiles() : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  static const char* kClassName() { return "DirectFiles"; }
  const char* Name() const override { return kClassName(); }

  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions&,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext*) override {
    const int fd = open_direct(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) {
      const int error = errno;
      if (error == ENOSPC) return IOStatus::NoSpace("create " + name, std::strerror(error));
      if (error == ENOENT) return IOStatus::PathNotFound("create " + name, std::strerror(error));
      return IOStatus::IOError("create " + name, std::strerror(error));
    }
    *result = std::make_unique<DirectFile>(fd, name);
    return IOStatus::OK();
  }
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> direct_files() { return std::make_shared<DirectFiles>(); }

}  // namespace tenax::checkpoint
