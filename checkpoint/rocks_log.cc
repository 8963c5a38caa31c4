#include "checkpoint/rocks_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <system_error>

namespace tenax::checkpoint {
namespace {

constexpr std::uintmax_t kLargestLog = 4 << 20;

class RocksLog final : public rocksdb::Logger {
 public:
  explicit RocksLog(int fd) : Logger(rocksdb::InfoLogLevel::WARN_LEVEL), fd_(fd) {}
  RocksLog(const RocksLog&) = delete;
  RocksLog& operator=(const RocksLog&) = delete;
  ~RocksLog() override {
    if (fd_ >= 0) ::close(fd_);
  }

  using Logger::Logv;
  void Logv(const char* format, std::va_list arguments) override {
    if (fd_ < 0) return;
    std::array<char, 2048> text;
    if (std::vsnprintf(text.data(), text.size(), format, arguments) < 0) return;
    const std::string line = fmt::format(
        "{:%Y-%m-%dT%H:%M:%SZ} {}\n",
        std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now()),
        text.data());
    // One write a line, so that lines of several threads stay whole. A full disk costs the line.
    static_cast<void>(!::write(fd_, line.data(), line.size()));
  }

 private:
  int fd_;
};

}  // namespace

std::shared_ptr<rocksdb::Logger> make_rocks_log(const std::string& folder) {
  const std::string path = folder + "/LOG";
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  const std::uintmax_t size = std::filesystem::file_size(path, ignored);
  if (!ignored && size > kLargestLog) std::filesystem::rename(path, path + ".old", ignored);
  return std::make_shared<RocksLog>(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
}

std::shared_ptr<rocksdb::Logger> make_silent_rocks_log() { return std::make_shared<RocksLog>(-1); }

}  // namespace tenax::checkpoint
