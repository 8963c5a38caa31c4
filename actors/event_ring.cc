#include "actors/event_ring.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

namespace tenax::actors {
namespace {

using SteadyClock = std::chrono::steady_clock;

/// A batch is cut here so that one slow stream never copies the whole ring at once.
constexpr std::size_t kMaxBatchBytes = 256 << 10;

std::string render_frame(std::string_view id, std::string_view event, std::string_view data) {
  std::string frame;
  frame.reserve(data.size() + id.size() + event.size() + 32);
  if (!id.empty()) frame.append("id: ").append(id).append("\n");
  frame.append("event: ").append(event).append("\n");
  for (std::size_t begin = 0; begin <= data.size();) {
    std::size_t end = std::min(data.find('\n', begin), data.size());
    frame.append("data: ").append(data.substr(begin, end - begin)).append("\n");
    begin = end + 1;
  }
  return frame.append("\n");
}

/// The sequence in "<name>-<sequence>-<id>", or nothing if the text is not an id of the ring called
/// `name`.
std::optional<std::uint64_t> sequence_of(std::string_view event_id, std::string_view name) {
  if (!event_id.starts_with(name) || event_id.size() <= name.size() ||
      event_id[name.size()] != '-') {
    return std::nullopt;
  }
  const char* begin = event_id.data() + name.size() + 1;
  const char* end = event_id.data() + event_id.size();
  std::uint64_t sequence = 0;
  auto [stop, error] = std::from_chars(begin, end, sequence);
  if (error != std::errc() || stop == end || *stop != '-') return std::nullopt;
  return sequence;
}

}  // namespace

EventRing::EventRing(Options options, std::string name)
    : options_(options), name_(std::move(name)) {}

void EventRing::publish(std::string_view event, std::uint64_t id, std::string_view data) {
  const bool is_state = event == "state";
  // Rendered outside the lock where possible; an event of the ring needs its sequence first.
  auto state_frame =
      is_state ? std::make_shared<const std::string>(render_frame({}, event, data)) : nullptr;
  {
    MutexLock lock(mutex_);
    if (closed_) return;
    if (is_state) {
      state_frame_ = std::move(state_frame);
      ++state_version_;
    } else {
      const std::uint64_t sequence = first_sequence_ + frames_.size();
      frames_.push_back(std::make_shared<const std::string>(
          render_frame(fmt::format("{}-{}-{}", name_, sequence, id), event, data)));
      bytes_ += frames_.back()->size();
      while (frames_.size() > options_.max_events ||
             (bytes_ > options_.max_bytes && frames_.size() > 1)) {
        bytes_ -= frames_.front()->size();
        frames_.pop_front();
        ++first_sequence_;
      }
    }
  }
  changed_.notify_all();
}

EventRing::Cursor EventRing::join(std::string_view last_event_id) {
  MutexLock lock(mutex_);
  const std::uint64_t end = first_sequence_ + frames_.size();
  Cursor cursor;
  cursor.next = end;
  if (last_event_id.empty()) return cursor;
  const auto last = sequence_of(last_event_id, name_);
  if (last && *last + 1 >= first_sequence_ && *last < end) {
    cursor.next = *last + 1;
  } else {
    cursor.lost_events = true;
  }
  return cursor;
}

std::string EventRing::id_before(const Cursor& cursor) const {
  return fmt::format("{}-{}-0", name_, cursor.next - 1);
}

bool EventRing::state_due(const Cursor& cursor, SteadyClock::time_point now) const {
  return cursor.state_version != state_version_ &&
         (cursor.state_version == 0 || now >= cursor.last_state + options_.state_interval);
}

bool EventRing::ready(const Cursor& cursor, SteadyClock::time_point now) const {
  return closed_ || cursor.next < first_sequence_ + frames_.size() || state_due(cursor, now);
}

EventRing::Batch EventRing::next(Cursor& cursor, std::chrono::milliseconds timeout) {
  const auto deadline = SteadyClock::now() + timeout;
  std::vector<std::shared_ptr<const std::string>> taken;
  {
    MutexLock lock(mutex_);
    auto now = SteadyClock::now();
    while (!ready(cursor, now)) {
      if (now >= deadline) return {Outcome::kIdle, {}};
      auto wake = deadline;
      if (cursor.state_version != state_version_) {
        wake = std::min(wake, cursor.last_state + options_.state_interval);
      }
      changed_.wait_until(mutex_, wake);
      now = SteadyClock::now();
    }
    if (closed_) return {Outcome::kClosed, {}};
    if (cursor.next < first_sequence_) return {Outcome::kLagging, {}};
    if (state_due(cursor, now)) {
      taken.push_back(state_frame_);
      cursor.state_version = state_version_;
      cursor.last_state = now;
    }
    std::size_t bytes = 0;
    while (cursor.next < first_sequence_ + frames_.size() && bytes < kMaxBatchBytes) {
      taken.push_back(frames_[cursor.next - first_sequence_]);
      bytes += taken.back()->size();
      ++cursor.next;
    }
  }
  Batch batch{Outcome::kFrames, {}};
  for (const auto& frame : taken) batch.frames += *frame;
  return batch;
}

void EventRing::close() {
  {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

}  // namespace tenax::actors
