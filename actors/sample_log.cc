#include "actors/sample_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "actors/run_directory.h"

using nlohmann::json;

namespace tenax::actors {

namespace {

constexpr char kMagic[8] = {'T', 'E', 'N', 'A', 'X', 'S', 'M', 'P'};

struct Header {
  char magic[8];
  std::uint64_t capacity;
  std::uint64_t written;
  std::uint64_t reserved;
};
static_assert(sizeof(Header) == 32 && sizeof(SampleLoss) == 32);

std::size_t file_bytes(std::uint64_t capacity) {
  return sizeof(Header) + capacity * sizeof(SampleLoss);
}

Error failed(const std::filesystem::path& path, const char* what) {
  return make_error(ErrorCode::kIo,
                    fmt::format("sample log {}: {}: {}", path.string(), what, strerror(errno)));
}

json number(double v) {
  if (std::isfinite(v)) return v;
  return std::isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity";
}

double number(const json& j) {
  if (!j.is_string()) return j.get<double>();
  const std::string text = j.get<std::string>();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  return text == "Infinity" ? kInf : text == "-Infinity" ? -kInf : std::nan("");
}

}  // namespace

Result<std::unique_ptr<SampleLog>> SampleLog::open(const std::filesystem::path& path,
                                                   std::uint64_t capacity) {
  std::error_code ec;
  std::filesystem::create_directories(path.parent_path(), ec);
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return failed(path, "open");
  const std::size_t bytes = file_bytes(capacity);
  // posix_fallocate, so that a full disk is an error here and no SIGBUS later.
  int error = 0;
  struct stat status {};
  if (::fstat(fd, &status) != 0) error = errno;
  if (error == 0 && static_cast<std::size_t>(status.st_size) != bytes) {
    if (::ftruncate(fd, 0) != 0) error = errno;
    if (error == 0) error = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  }
  void* mapped = MAP_FAILED;
  if (error == 0) {
    mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) error = errno;
  }
  ::close(fd);
  if (error != 0) {
    errno = error;
    return failed(path, "map");
  }
  auto* data = static_cast<std::byte*>(mapped);
  Header header;
  std::memcpy(&header, data, sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.capacity != capacity) {
    std::memset(data, 0, bytes);
    header = {};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.capacity = capacity;
    std::memcpy(data, &header, sizeof header);
  }
  return std::unique_ptr<SampleLog>(new SampleLog(data, bytes));
}

SampleLog::~SampleLog() { ::munmap(data_, bytes_); }

void SampleLog::add(const SampleLoss& sample) {
  Header header;
  std::memcpy(&header, data_, sizeof header);
  const std::uint64_t slot = header.written % header.capacity;
  std::memcpy(data_ + sizeof header + slot * sizeof sample, &sample, sizeof sample);
  ++header.written;
  std::memcpy(data_, &header, sizeof header);
}

Result<std::vector<SampleLoss>> read_sample_log(const std::filesystem::path& path) {
  TENAX_TRY(const std::string bytes, read_file(path));
  Header header{};
  if (bytes.size() >= sizeof header) std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.capacity == 0 ||
      header.capacity > bytes.size() || bytes.size() != file_bytes(header.capacity)) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} is no sample log, or a damaged one", path.string()));
  }
  const std::uint64_t count = std::min(header.written, header.capacity);
  std::vector<SampleLoss> samples(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t slot = (header.written - count + i) % header.capacity;
    std::memcpy(&samples[i], bytes.data() + sizeof header + slot * sizeof(SampleLoss),
                sizeof(SampleLoss));
  }
  return samples;
}

Status keep_samples(const std::filesystem::path& rings, std::uint64_t branch,
                    std::int64_t first_step, std::int64_t last_step,
                    const std::filesystem::path& out) {
  std::vector<SampleLoss> kept;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(rings, ec)) {
    if (entry.path().extension() != ".ring") continue;
    TENAX_TRY(const auto samples, read_sample_log(entry.path()));
    for (const SampleLoss& s : samples) {
      if (s.branch == branch && s.step >= first_step && s.step <= last_step) kept.push_back(s);
    }
  }
  // A replayed step was noted twice: the newer entry of a ring comes later.
  const auto place = [](const SampleLoss& s) { return std::pair(s.step, s.position); };
  std::stable_sort(kept.begin(), kept.end(),
                   [&](const SampleLoss& a, const SampleLoss& b) { return place(a) < place(b); });
  json list = json::array();
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (i + 1 < kept.size() && place(kept[i]) == place(kept[i + 1])) continue;
    list.push_back({kept[i].step, kept[i].position, number(kept[i].loss)});
  }
  const json j = {{"branch", branch},
                  {"first_step", first_step},
                  {"last_step", last_step},
                  {"samples", std::move(list)}};
  std::filesystem::create_directories(out.parent_path(), ec);
  return write_file(out, j.dump() + "\n", 0644);
}

Result<std::vector<SampleLoss>> read_kept_samples(const std::filesystem::path& path) {
  TENAX_TRY(const std::string text, read_file(path));
  try {
    const json j = json::parse(text);
    std::vector<SampleLoss> samples;
    for (const json& row : j.at("samples")) {
      samples.push_back({j.at("branch").get<std::uint64_t>(), row.at(0).get<std::int64_t>(),
                         row.at(1).get<std::int64_t>(), number(row.at(2))});
    }
    return samples;
  } catch (const json::exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} cannot be read: {}", path.string(), e.what()));
  }
}

}  // namespace tenax::actors
