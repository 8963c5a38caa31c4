// The traces of a rank's last steps in a file of fixed size: a ring of records,
// RUN/trace/rank-R.trace. Written once a step without a sync (a trace is worth no stall), read by
// `tenax trace` at any time.
//
// A record is 64 bytes, numbers little endian: sequence (u64, from 1, 0 = never written), step
// (i64), begin and end (i64, nanoseconds UTC), bytes (u64), generation (u32), microbatch and index
// (i32, -1 = none), kind (u32), zero (u32), and a check (u32, low bits of the hash of the 60 bytes
// before), so that a torn record is told from a whole one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "common/result.h"
#include "compute/step_trace.h"

namespace tenax::actors {

struct TraceRecord {
  std::uint32_t generation = 0;
  compute::TraceEvent event;
};

class TraceFile {
 public:
  static constexpr std::size_t kRecords = 65536;

  /// Opens or makes the file and goes on behind its newest record.
  static Result<TraceFile> open(const std::filesystem::path& path);
  TraceFile(TraceFile&& other) noexcept;
  TraceFile& operator=(TraceFile&& other) noexcept;
  ~TraceFile();

  /// Overwrites the oldest records.
  Status append(std::uint32_t generation, std::span<const compute::TraceEvent> events);

 private:
  explicit TraceFile(int fd) : fd_(fd) {}
  int fd_ = -1;
  std::uint64_t next_ = 1;
};

/// Whole records of a file, oldest first.
Result<std::vector<TraceRecord>> read_trace(const std::filesystem::path& path);

}  // namespace tenax::actors
