// The last transfers and collectives of one rank, kept for the moment when the rank hangs or fails:
// who waited for whom. Guarded by one mutex that only the engine's thread takes regularly, so
// recording costs tens of nanoseconds; snapshot() may be called from any thread, also while the
// engine is blocked in a transfer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/annotations.h"
#include "common/clock.h"

namespace tenax::compute {

enum class FlightState : std::uint8_t {
  kPosted,   ///< begun, not ended, while the rank does other work
  kWaiting,  ///< not ended, and the rank does nothing until it has
  kDone,
  kFailed,
};

std::string_view to_string(FlightState state);

struct FlightEntry {
  std::uint64_t sequence = 0;  ///< counts this rank's entries from 1, never reused
  std::string_view operation;  ///< "send", "recv" or a collective's name
  std::string_view within;     ///< the collective that a transfer belongs to; empty outside
  int peer = -1;               ///< -1 for a collective
  std::uint64_t bytes = 0;
  std::uint64_t tag = 0;
  FlightState state = FlightState::kPosted;
  Time start{};
  Time end{};  ///< valid once it has ended
  bool open() const { return state == FlightState::kPosted || state == FlightState::kWaiting; }
};

/// One line for a journal: "#17 recv of 4096 bytes from rank 2, tag 5, in all_gather: posted at
/// ...".
std::string describe(const FlightEntry& entry);

class StepTrace;

class FlightRecorder {
 public:
  /// Keeps the last `capacity` (> 0) entries, about 100 bytes each. `clock` must outlive the
  /// recorder.
  FlightRecorder(std::size_t capacity, const Clock& clock);

  /// Begins an entry and returns its sequence number. `operation` must be a string literal.
  std::uint64_t post(std::string_view operation, int peer, std::uint64_t bytes, std::uint64_t tag);
  /// The rank waits for an entry to end; ignored if it has been overwritten since.
  void wait(std::uint64_t sequence);
  /// Ends an entry; ignored if it has been overwritten since.
  void finish(std::uint64_t sequence, FlightState state);
  /// Transfers that have ended are events of `trace` too, which outlives the recorder and is used
  /// by the thread that calls finish().
  void set_trace(StepTrace* trace) { trace_ = trace; }
  /// The rank was blocked in a transfer for so long.
  void add_blocked(Duration blocked);
  /// All such time so far.
  Duration blocked() const;
  /// A copy of what is kept, oldest first.
  std::vector<FlightEntry> snapshot() const;

 private:
  friend class CollectiveRecord;

  const Clock& clock_;
  StepTrace* trace_ = nullptr;
  mutable Mutex mutex_;
  std::vector<FlightEntry> ring_ TENAX_GUARDED_BY(mutex_);
  std::uint64_t last_sequence_ TENAX_GUARDED_BY(mutex_) = 0;
  Duration blocked_ TENAX_GUARDED_BY(mutex_){0};
  std::string_view collective_ TENAX_GUARDED_BY(mutex_);
};

/// Records a collective from construction to destruction; transfers posted meanwhile are marked as
/// within the outermost one. Counts as failed unless succeed() was called. `recorder` may be null.
class CollectiveRecord {
 public:
  CollectiveRecord(FlightRecorder* recorder, std::string_view operation, std::uint64_t bytes,
                   std::uint64_t tag);
  ~CollectiveRecord();
  CollectiveRecord(const CollectiveRecord&) = delete;
  CollectiveRecord& operator=(const CollectiveRecord&) = delete;
  void succeed() { state_ = FlightState::kDone; }

 private:
  FlightRecorder* recorder_;
  std::uint64_t sequence_ = 0;
  std::string_view outer_;
  FlightState state_ = FlightState::kFailed;
};

}  // namespace tenax::compute
