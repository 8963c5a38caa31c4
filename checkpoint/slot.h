// Slots: two shared-memory segments a worker, into which it copies its shard at a boundary. The
// copy is the whole stall of a checkpoint; the segment outlives its worker, so a restarted worker
// or the agent can take the bytes from it. A segment is one page of header and the payload. The
// header is written last and carries its own checksum: a half-written slot never looks sealed. One
// process writes a pair; any number read.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/hash.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// What a sealed slot holds.
struct SlotHeader {
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint64_t generation = 0;
  std::uint64_t incarnation = 0;  ///< of the worker that sealed it
  std::uint64_t payload_bytes = 0;
  /// hash128 of the payload, if the worker took the time; otherwise the manifest's shard hashes
  /// judge the bytes.
  std::optional<Hash128> payload_hash;

  bool operator==(const SlotHeader&) const = default;
};

/// "tenax-<run_id>-<agent>-<worker slot>": what both segments of a pair are called, less their "-0"
/// and "-1". Characters other than letters, digits, '_' and '.' are written as %XX, so that names
/// of different runs never coincide.
std::string slot_prefix(std::string_view run_id, std::string_view agent, int worker_slot);
/// The part of it that all segments of an agent share: "tenax-<run_id>-<agent>-".
std::string slot_owner_prefix(std::string_view run_id, std::string_view agent);
/// The part of it that all segments of a run share: "tenax-<run_id>".
std::string run_prefix(std::string_view run_id);

/// A mapped segment. Moves, does not copy; unmapped by its destructor.
class Mapping {
 public:
  Mapping() = default;
  Mapping(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The writing side.
class SlotPair {
 public:
  /// Creates and pre-faults both segments, or takes over those of an earlier incarnation with their
  /// contents if they have this size (others are replaced). kNoSpace if the shared memory is too
  /// small. Costs a pass over the memory the first time. A writer that still holds them (killed and
  /// not yet gone, or stopped) is given `holder_wait`; then it keeps its segments, which no longer
  /// have a name, and new ones are made: what it writes when it wakes reaches nobody.
  static Result<SlotPair> open(const std::string& prefix, std::uint64_t payload_bytes,
                               std::chrono::milliseconds holder_wait = std::chrono::seconds(5));

  /// Invalidates slot `index` (0 or 1) and returns its payload to write to.
  std::span<std::byte> begin(int index);
  /// Makes what was written since begin() visible to readers. kInvalidArgument if payload_bytes
  /// exceeds the slot.
  Status seal(int index, const SlotHeader& header);
  /// Makes the slot unsealed without offering it for writing.
  void invalidate(int index);
  /// What the slot holds; nothing unless sealed.
  std::optional<SlotHeader> header(int index) const;
  std::span<const std::byte> payload(int index) const;
  const std::string& name(int index) const { return names_[static_cast<std::size_t>(index)]; }
  std::uint64_t payload_bytes() const { return payload_bytes_; }

 private:
  SlotPair() = default;
  std::string names_[2];
  Mapping maps_[2];
  std::uint64_t payload_bytes_ = 0;
};

/// The reading side: a sealed slot, mapped read-only. If the writer reuses the slot meanwhile,
/// still_sealed() turns false and what was read since the last true answer must be thrown away.
class SlotReader {
 public:
  /// kNotFound: no such segment; kUnavailable: it is not sealed; kDataLoss: it is no segment of
  /// this format.
  static Result<SlotReader> open(const std::string& name);

  const SlotHeader& header() const { return header_; }
  std::span<const std::byte> payload() const;
  bool still_sealed() const;
  /// kDataLoss if the payload has another hash than the header says; ok if the header has none.
  Status verify() const;

 private:
  SlotReader() = default;
  std::string name_;
  Mapping map_;
  SlotHeader header_;
  std::uint64_t seal_ = 0;
};

/// The slot of the pair that is sealed for (branch, step); kNotFound, saying what the two hold, if
/// none is.
Result<SlotReader> find_sealed_slot(const std::string& prefix, std::uint64_t branch,
                                    std::int64_t step);

/// Where shared memory has its names, and the path of one of them.
inline constexpr const char* kSegmentDirectory = "/dev/shm";
std::string segment_path(std::string_view name);

struct SegmentInfo {
  std::string name;
  std::uint64_t bytes = 0;
};

/// The segments of a run on this host, by name.
std::vector<SegmentInfo> list_segments(std::string_view run_id);
/// Unlinks them; memory is freed when the last process unmaps. Returns how many there were.
Result<int> unlink_segments(std::string_view run_id);
/// Unlinks segment `name` unless a SlotPair of some living process has it. True if it went.
bool unlink_unheld(const std::string& name);
/// Unlinks both segments of one pair; not an error if they do not exist.
Status unlink_pair(const std::string& prefix);

}  // namespace tenax::checkpoint
