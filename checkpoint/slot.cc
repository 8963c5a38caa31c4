#include "checkpoint/slot.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "checkpoint/files.h"
#include "common/check.h"
#include "common/huge_pages.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace tenax::checkpoint {

namespace {

constexpr std::size_t kHeaderBytes = 4096;
constexpr std::uint64_t kMagic = 0x3154534c584e54;  // "TNXLST1"
constexpr std::uint64_t kFormat = 1;

// The header as 64-bit words in host order (a segment never leaves its host). Word kSeal is the
// checksum of the others and is zero in a slot that is not sealed; readers in other processes watch
// it, so every access is atomic.
enum Word {
  kMagicWord,
  kFormatWord,
  kBranch,
  kStep,
  kGeneration,
  kIncarnation,
  kPayloadBytes,
  kHasHash,
  kHashHigh,
  kHashLow,
  kSeals,
  kSeal,
  kNumWords
};
using Words = std::array<std::uint64_t, kNumWords>;

std::atomic_ref<std::uint64_t> word(std::byte* base, int index) {
  return std::atomic_ref<std::uint64_t>(reinterpret_cast<std::uint64_t*>(base)[index]);
}

std::uint64_t checksum(const Words& words) {
  const Hash128 h = hash128(std::as_bytes(std::span(words).first(kSeal)));
  return h.low == 0 ? 1 : h.low;
}

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

/// Touches every page for writing without dying of SIGBUS where the shared memory ends.
int populate(std::byte* data, std::size_t bytes, int fd) {
  want_huge_pages(data, bytes);
  if (::madvise(data, bytes, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return errno;
  // A kernel before 5.14: reserving first makes the touches safe.
  if (const int error = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes)); error != 0)
    return error;
  for (std::size_t i = 0; i < bytes; i += 4096) {
    auto* byte = reinterpret_cast<volatile std::byte*>(data + i);
    *byte = *byte;
  }
  return 0;
}

std::uint64_t size_of(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

/// A shared-memory file system may be larger than the memory: filling it would wake the OOM killer,
/// so what does not fit is refused.
Status check_memory(std::size_t bytes, const std::string& path) {
  struct statvfs info {};
  if (::statvfs(kSegmentDirectory, &info) != 0)
    return from_errno("look at", kSegmentDirectory, errno);
  std::uint64_t available = static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  std::ifstream meminfo("/proc/meminfo");
  std::string field;
  std::uint64_t kibibytes = 0;
  while (meminfo >> field) {
    if (field == "MemAvailable:" && meminfo >> kibibytes) {
      available = std::min(available, kibibytes * 1024);
    }
  }
  if (bytes <= available) return {};
  return make_error(ErrorCode::kNoSpace,
                    fmt::format("slot {} needs {} bytes of shared memory, {} are available", path,
                                bytes, available));
}

bool has_name(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && info.st_nlink > 0;
}

/// Opens the segment, making it if need be, and holds it: unlink_unheld() leaves it alone until the
/// descriptor is closed and the last mapping made from it is gone (the lock is the open file's,
/// which a mapping keeps open). A writer before this one that still lives is given `wait` to end;
/// then the segment is left to it without a name, and whatever it yet writes reaches nobody.
int open_held(const std::string& path, std::chrono::milliseconds wait) {
  const auto deadline = std::chrono::steady_clock::now() + wait;
  while (true) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return fd;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      if (has_name(fd)) return fd;  // otherwise it was unlinked before it was held
    } else if (std::chrono::steady_clock::now() >= deadline) {
      ::unlink(path.c_str());
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ::close(fd);
  }
}

/// A segment of exactly `bytes`: the one that exists, or a new one in its place.
Result<Mapping> map_segment(const std::string& name, std::size_t bytes,
                            std::chrono::milliseconds wait) {
  const std::string path = segment_path(name);
  {
    // One of another size may still be mapped by a reader, who would die of SIGBUS if it were
    // truncated.
    const Fd old(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (old.get() >= 0 && size_of(old.get()) != bytes) ::unlink(path.c_str());
  }
  const Fd fd(open_held(path, wait));
  if (fd.get() < 0) return from_errno("open slot", path, errno);
  const bool created = size_of(fd.get()) == 0;
  if (created) {
    if (Status fits = check_memory(bytes, path); !fits) {
      ::unlink(path.c_str());
      return fits.error();
    }
  }
  if (created && ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return from_errno("size slot", path, errno);
  }
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return from_errno("map slot", path, errno);
  Mapping map(static_cast<std::byte*>(data), bytes);
  if (const int error = populate(map.data(), bytes, fd.get()); error != 0) {
    if (created) ::unlink(path.c_str());
    return from_errno(fmt::format("reserve {} bytes of shared memory for", bytes), path, error);
  }
  return map;
}

struct Sealed {
  SlotHeader header;
  std::uint64_t seal = 0;
};

/// The header if it is whole. Words are read between two reads of the seal: equal means nobody
/// wrote in between.
std::optional<Sealed> read_header(std::byte* base) {
  Words words{};
  words[kSeal] = word(base, kSeal).load(std::memory_order_acquire);
  for (int i = 0; i < kSeal; ++i) {
    words[static_cast<std::size_t>(i)] = word(base, i).load(std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_acquire);
  if (words[kSeal] == 0 || word(base, kSeal).load(std::memory_order_relaxed) != words[kSeal] ||
      words[kMagicWord] != kMagic || words[kFormatWord] != kFormat ||
      checksum(words) != words[kSeal]) {
    return std::nullopt;
  }
  Sealed sealed;
  sealed.header = {words[kBranch],       static_cast<std::int64_t>(words[kStep]),
                   words[kGeneration],   words[kIncarnation],
                   words[kPayloadBytes], std::nullopt};
  if (words[kHasHash] != 0) sealed.header.payload_hash = Hash128{words[kHashHigh], words[kHashLow]};
  sealed.seal = words[kSeal];
  return sealed;
}

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.';
    if (plain) {
      out.push_back(c);
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

std::string segment_name(const std::string& prefix, int index) {
  return fmt::format("{}-{}", prefix, index);
}

}  // namespace

std::string segment_path(std::string_view name) {
  return fmt::format("{}/{}", kSegmentDirectory, name);
}

std::string slot_prefix(std::string_view run_id, std::string_view agent, int worker_slot) {
  return slot_owner_prefix(run_id, agent) + std::to_string(worker_slot);
}

std::string slot_owner_prefix(std::string_view run_id, std::string_view agent) {
  return fmt::format("{}-{}-", run_prefix(run_id), escape(agent));
}

std::string run_prefix(std::string_view run_id) { return "tenax-" + escape(run_id); }

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Result<SlotPair> SlotPair::open(const std::string& prefix, std::uint64_t payload_bytes,
                                std::chrono::milliseconds holder_wait) {
  SlotPair pair;
  pair.payload_bytes_ = payload_bytes;
  for (int i = 0; i < 2; ++i) {
    pair.names_[i] = segment_name(prefix, i);
    TENAX_TRY(pair.maps_[i],
              map_segment(pair.names_[i], kHeaderBytes + payload_bytes, holder_wait));
  }
  return pair;
}

void SlotPair::invalidate(int index) {
  TENAX_CHECK(index == 0 || index == 1);
  word(maps_[index].data(), kSeal).store(0, std::memory_order_relaxed);
  // A reader that sees a byte of the next payload also sees the seal broken.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

std::span<std::byte> SlotPair::begin(int index) {
  invalidate(index);
  return {maps_[index].data() + kHeaderBytes, payload_bytes_};
}

Status SlotPair::seal(int index, const SlotHeader& header) {
  TENAX_CHECK(index == 0 || index == 1);
  if (header.payload_bytes > payload_bytes_) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("seal {}: payload of {} bytes, the slot has {}", name(index),
                                  header.payload_bytes, payload_bytes_));
  }
  std::byte* base = maps_[index].data();
  Words words{};
  words[kMagicWord] = kMagic;
  words[kFormatWord] = kFormat;
  words[kBranch] = header.branch;
  words[kStep] = static_cast<std::uint64_t>(header.step);
  words[kGeneration] = header.generation;
  words[kIncarnation] = header.incarnation;
  words[kPayloadBytes] = header.payload_bytes;
  words[kHasHash] = header.payload_hash ? 1 : 0;
  words[kHashHigh] = header.payload_hash ? header.payload_hash->high : 0;
  words[kHashLow] = header.payload_hash ? header.payload_hash->low : 0;
  // Counted, so that sealing the same step twice still changes the seal that readers watch.
  words[kSeals] = word(base, kSeals).load(std::memory_order_relaxed) + 1;
  for (int i = 0; i < kSeal; ++i) {
    word(base, i).store(words[static_cast<std::size_t>(i)], std::memory_order_relaxed);
  }
  word(base, kSeal).store(checksum(words), std::memory_order_release);
  return {};
}

std::optional<SlotHeader> SlotPair::header(int index) const {
  TENAX_CHECK(index == 0 || index == 1);
  const auto sealed = read_header(maps_[index].data());
  if (!sealed || sealed->header.payload_bytes > payload_bytes_) return std::nullopt;
  return sealed->header;
}

std::span<const std::byte> SlotPair::payload(int index) const {
  TENAX_CHECK(index == 0 || index == 1);
  return {maps_[index].data() + kHeaderBytes, payload_bytes_};
}

Result<SlotReader> SlotReader::open(const std::string& name) {
  const std::string path = segment_path(name);
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return from_errno("open slot", path, errno);
  const std::uint64_t bytes = size_of(fd.get());
  if (bytes < kHeaderBytes) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("slot {}: {} bytes are less than its header", path, bytes));
  }
  void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return from_errno("map slot", path, errno);
  SlotReader reader;
  reader.name_ = name;
  reader.map_ = Mapping(static_cast<std::byte*>(data), bytes);
  const auto sealed = read_header(reader.map_.data());
  if (!sealed)
    return make_error(ErrorCode::kUnavailable, fmt::format("slot {} is not sealed", path));
  if (sealed->header.payload_bytes > bytes - kHeaderBytes) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("slot {}: payload of {} bytes in a segment of {}", path,
                                  sealed->header.payload_bytes, bytes));
  }
  reader.header_ = sealed->header;
  reader.seal_ = sealed->seal;
  return reader;
}

std::span<const std::byte> SlotReader::payload() const {
  return {map_.data() + kHeaderBytes, header_.payload_bytes};
}

bool SlotReader::still_sealed() const {
  std::atomic_thread_fence(std::memory_order_acquire);
  return word(map_.data(), kSeal).load(std::memory_order_relaxed) == seal_;
}

Status SlotReader::verify() const {
  if (!header_.payload_hash) return {};
  const Hash128 found = hash128(payload());
  if (found == *header_.payload_hash) return {};
  return make_error(
      ErrorCode::kDataLoss,
      fmt::format("slot {} (branch {}, step {}): expected hash {}, got {}", name_, header_.branch,
                  header_.step, header_.payload_hash->hex(), found.hex()));
}

Result<SlotReader> find_sealed_slot(const std::string& prefix, std::uint64_t branch,
                                    std::int64_t step) {
  std::string held;
  for (int i = 0; i < 2; ++i) {
    auto reader = SlotReader::open(segment_name(prefix, i));
    if (reader && reader->header().branch == branch && reader->header().step == step) return reader;
    held += fmt::format(
        "; slot {}: {}", i,
        reader ? fmt::format("branch {}, step {}", reader->header().branch, reader->header().step)
               : reader.error().message);
  }
  return make_error(
      ErrorCode::kNotFound,
      fmt::format("no slot of {} is sealed for branch {}, step {}{}", prefix, branch, step, held));
}

std::vector<SegmentInfo> list_segments(std::string_view run_id) {
  const std::string prefix = run_prefix(run_id) + "-";
  std::vector<SegmentInfo> segments;
  DIR* directory = ::opendir(kSegmentDirectory);
  if (directory == nullptr) return segments;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    struct stat info {};
    if (name.rfind(prefix, 0) == 0 && ::stat(segment_path(name).c_str(), &info) == 0) {
      segments.push_back({name, static_cast<std::uint64_t>(info.st_size)});
    }
  }
  ::closedir(directory);
  std::sort(segments.begin(), segments.end(),
            [](const SegmentInfo& a, const SegmentInfo& b) { return a.name < b.name; });
  return segments;
}

Result<int> unlink_segments(std::string_view run_id) {
  int count = 0;
  for (const SegmentInfo& segment : list_segments(run_id)) {
    if (::unlink(segment_path(segment.name).c_str()) != 0 && errno != ENOENT) {
      return from_errno("unlink slot", segment_path(segment.name), errno);
    }
    ++count;
  }
  return count;
}

bool unlink_unheld(const std::string& name) {
  const std::string path = segment_path(name);
  const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.get() < 0 || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 || !has_name(fd.get()))
    return false;
  return ::unlink(path.c_str()) == 0;
}

Status unlink_pair(const std::string& prefix) {
  for (int i = 0; i < 2; ++i) {
    const std::string path = segment_path(segment_name(prefix, i));
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
      return from_errno("unlink slot", path, errno);
  }
  return {};
}

}  // namespace tenax::checkpoint
