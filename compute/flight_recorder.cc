#include "compute/flight_recorder.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "compute/step_trace.h"

namespace tenax::compute {

std::string_view to_string(FlightState state) {
  switch (state) {
    case FlightState::kPosted:
      return "posted";
    case FlightState::kWaiting:
      return "waiting";
    case FlightState::kDone:
      return "done";
    case FlightState::kFailed:
      return "failed";
  }
  return "unknown";
}

std::string describe(const FlightEntry& entry) {
  std::string text =
      fmt::format("#{} {} of {} bytes", entry.sequence, entry.operation, entry.bytes);
  if (entry.peer >= 0) {
    text += fmt::format(" {} rank {}", entry.operation == "send" ? "to" : "from", entry.peer);
  }
  text += fmt::format(", tag {:#x}", entry.tag);
  if (!entry.within.empty()) text += fmt::format(", in {}", entry.within);
  text += fmt::format(": {} at {}", to_string(entry.state),
                      format_time(entry.open() ? entry.start : entry.end));
  if (!entry.open()) {
    text += fmt::format(" after {:.3f} ms", 1e3 * to_seconds(entry.end - entry.start));
  }
  return text;
}

FlightRecorder::FlightRecorder(std::size_t capacity, const Clock& clock)
    : clock_(clock), ring_(capacity) {
  TENAX_CHECK(capacity > 0);
}

std::uint64_t FlightRecorder::post(std::string_view operation, int peer, std::uint64_t bytes,
                                   std::uint64_t tag) {
  const Time now = clock_.now();
  MutexLock lock(mutex_);
  const std::uint64_t sequence = ++last_sequence_;
  ring_[sequence % ring_.size()] = {.sequence = sequence,
                                    .operation = operation,
                                    .within = collective_,
                                    .peer = peer,
                                    .bytes = bytes,
                                    .tag = tag,
                                    .state = FlightState::kPosted,
                                    .start = now,
                                    .end = {}};
  return sequence;
}

void FlightRecorder::add_blocked(Duration blocked) {
  MutexLock lock(mutex_);
  blocked_ += blocked;
}

Duration FlightRecorder::blocked() const {
  MutexLock lock(mutex_);
  return blocked_;
}

void FlightRecorder::wait(std::uint64_t sequence) {
  MutexLock lock(mutex_);
  FlightEntry& entry = ring_[sequence % ring_.size()];
  if (entry.sequence == sequence && entry.open()) entry.state = FlightState::kWaiting;
}

void FlightRecorder::finish(std::uint64_t sequence, FlightState state) {
  const Time now = clock_.now();
  MutexLock lock(mutex_);
  FlightEntry& entry = ring_[sequence % ring_.size()];
  if (entry.sequence != sequence) return;
  entry.state = state;
  entry.end = now;
  if (trace_ == nullptr || entry.peer < 0 || !trace_->takes_details()) return;
  const auto kind = entry.operation == "send" ? TraceKind::kSend : TraceKind::kRecv;
  trace_->add(
      {.index = entry.peer, .bytes = entry.bytes, .kind = kind, .begin = entry.start, .end = now});
}

std::vector<FlightEntry> FlightRecorder::snapshot() const {
  MutexLock lock(mutex_);
  const std::uint64_t count = std::min<std::uint64_t>(last_sequence_, ring_.size());
  std::vector<FlightEntry> entries;
  entries.reserve(count);
  for (std::uint64_t s = last_sequence_ - count + 1; s <= last_sequence_; ++s) {
    entries.push_back(ring_[s % ring_.size()]);
  }
  return entries;
}

CollectiveRecord::CollectiveRecord(FlightRecorder* recorder, std::string_view operation,
                                   std::uint64_t bytes, std::uint64_t tag)
    : recorder_(recorder) {
  if (recorder_ == nullptr) return;
  sequence_ = recorder_->post(operation, -1, bytes, tag);
  MutexLock lock(recorder_->mutex_);
  outer_ = recorder_->collective_;
  if (outer_.empty()) recorder_->collective_ = operation;
}

CollectiveRecord::~CollectiveRecord() {
  if (recorder_ == nullptr) return;
  recorder_->finish(sequence_, state_);
  MutexLock lock(recorder_->mutex_);
  recorder_->collective_ = outer_;
}

}  // namespace tenax::compute
