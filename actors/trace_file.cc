#include "actors/trace_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "actors/run_directory.h"
#include "common/hash.h"

namespace tenax::actors {

namespace {

struct Stored {
  std::uint64_t sequence = 0;
  std::int64_t step = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::uint64_t bytes = 0;
  std::uint32_t generation = 0;
  std::int32_t microbatch = 0;
  std::int32_t index = 0;
  std::uint32_t kind = 0;
  std::uint32_t zero = 0;
  std::uint32_t check = 0;
};
static_assert(sizeof(Stored) == 64);

std::uint32_t check_of(const Stored& record) {
  const auto bytes = std::as_bytes(std::span(&record, 1)).first(offsetof(Stored, check));
  return static_cast<std::uint32_t>(hash128(bytes).low);
}

bool whole(const Stored& record) {
  return record.sequence > 0 && record.check == check_of(record) &&
         record.kind <= static_cast<std::uint32_t>(compute::kLastTraceKind);
}

Error file_error(const std::filesystem::path& path, const char* doing) {
  return make_error(ErrorCode::kIo,
                    fmt::format("{} {}: {}", doing, path.string(), std::strerror(errno)));
}

std::vector<Stored> records_in(const std::string& bytes) {
  std::vector<Stored> records(bytes.size() / sizeof(Stored));
  if (records.empty()) return records;
  std::memcpy(records.data(), bytes.data(), records.size() * sizeof(Stored));
  std::erase_if(records, [](const Stored& r) { return !whole(r); });
  std::ranges::sort(records, {}, &Stored::sequence);
  return records;
}

}  // namespace

Result<TraceFile> TraceFile::open(const std::filesystem::path& path) {
  std::error_code ignored;
  std::filesystem::create_directories(path.parent_path(), ignored);
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return file_error(path, "open trace");
  TraceFile file(fd);
  if (const auto bytes = read_file(path)) {
    const std::vector<Stored> records = records_in(*bytes);
    if (!records.empty()) file.next_ = records.back().sequence + 1;
  }
  return file;
}

TraceFile::TraceFile(TraceFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), next_(other.next_) {}

TraceFile& TraceFile::operator=(TraceFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(next_, other.next_);
  return *this;
}

TraceFile::~TraceFile() {
  if (fd_ >= 0) ::close(fd_);
}

Status TraceFile::append(std::uint32_t generation, std::span<const compute::TraceEvent> events) {
  constexpr std::size_t kBatch = 64;
  Stored batch[kBatch];
  while (!events.empty()) {
    const std::size_t place = (next_ - 1) % kRecords;
    const std::size_t n = std::min({events.size(), kBatch, kRecords - place});
    for (std::size_t i = 0; i < n; ++i) {
      const compute::TraceEvent& e = events[i];
      batch[i] = {next_ + i,
                  e.step,
                  e.begin.time_since_epoch().count(),
                  e.end.time_since_epoch().count(),
                  e.bytes,
                  generation,
                  e.microbatch,
                  e.index,
                  static_cast<std::uint32_t>(e.kind),
                  0,
                  0};
      batch[i].check = check_of(batch[i]);
    }
    const std::size_t bytes = n * sizeof(Stored);
    if (::pwrite(fd_, batch, bytes, static_cast<off_t>(place * sizeof(Stored))) !=
        static_cast<ssize_t>(bytes)) {
      return make_error(ErrorCode::kIo, fmt::format("write a trace: {}", std::strerror(errno)));
    }
    next_ += n;
    events = events.subspan(n);
  }
  return {};
}

Result<std::vector<TraceRecord>> read_trace(const std::filesystem::path& path) {
  TENAX_TRY(const std::string bytes, read_file(path));
  std::vector<TraceRecord> records;
  for (const Stored& r : records_in(bytes)) {
    compute::TraceEvent e;
    e.step = r.step;
    e.microbatch = r.microbatch;
    e.index = r.index;
    e.bytes = r.bytes;
    e.kind = static_cast<compute::TraceKind>(r.kind);
    e.begin = Time(Duration(r.begin));
    e.end = Time(Duration(r.end));
    records.push_back({r.generation, e});
  }
  return records;
}

}  // namespace tenax::actors
