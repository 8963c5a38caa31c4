// The last published events, kept for any number of server-sent-event streams, each with its own
// place in the ring. One ring instead of one queue a client: a publisher's cost does not depend on
// who listens, and a browser that comes back within the ring's length misses nothing. Format:
// https://html.spec.whatwg.org/multipage/server-sent-events.html Guarded: every member may be
// called from any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "common/annotations.h"

namespace tenax::actors {

class EventRing {
 public:
  struct Options {
    std::size_t max_events = 4096;
    std::size_t max_bytes = 8 << 20;
    /// A stream gets at most one "state" event in this time, always the newest.
    std::chrono::milliseconds state_interval{200};
  };

  /// One stream's place. A value owned by the stream's thread.
  struct Cursor {
    std::uint64_t next = 0;           ///< sequence of the next event to send
    std::uint64_t state_version = 0;  ///< of the newest "state" event sent, 0 = none
    std::chrono::steady_clock::time_point last_state{};
    bool lost_events = false;  ///< join() could not resume: the client must read everything again
  };

  enum class Outcome {
    kFrames,   ///< `frames` holds at least one event, ready to be written
    kIdle,     ///< nothing happened within the timeout
    kLagging,  ///< the ring has overwritten events that this stream had not yet taken: end it
    kClosed,
  };
  struct Batch {
    Outcome outcome = Outcome::kIdle;
    std::string frames;
  };

  /// `name` tells this ring from that of an earlier process; it is part of every event's id. No '-'
  /// in it.
  EventRing(Options options, std::string name);

  /// Appends an event and forgets the oldest beyond the limits. "state" events are not kept in the
  /// ring: only the newest counts. Takes a mutex that streams hold only to copy, so it never waits
  /// for a client. No-op after close().
  void publish(std::string_view event, std::uint64_t id, std::string_view data)
      TENAX_EXCLUDES(mutex_);

  /// The place for a new stream. With the Last-Event-ID of an event still known it starts right
  /// after it; with an empty one at the end of the ring; otherwise at the end with `lost_events`
  /// set. The newest state is always sent first.
  Cursor join(std::string_view last_event_id) TENAX_EXCLUDES(mutex_);

  /// The event id that stands for "everything before the cursor was received"; join() takes it.
  std::string id_before(const Cursor& cursor) const;

  /// Waits up to `timeout` for something after the cursor and moves the cursor past what is
  /// returned.
  Batch next(Cursor& cursor, std::chrono::milliseconds timeout) TENAX_EXCLUDES(mutex_);

  /// Ends every next(), now and later, with kClosed.
  void close() TENAX_EXCLUDES(mutex_);

 private:
  bool state_due(const Cursor& cursor, std::chrono::steady_clock::time_point now) const
      TENAX_REQUIRES(mutex_);
  bool ready(const Cursor& cursor, std::chrono::steady_clock::time_point now) const
      TENAX_REQUIRES(mutex_);

  const Options options_;
  const std::string name_;
  Mutex mutex_;
  CondVar changed_;
  // Sequences first_sequence_ ... first_sequence_ + frames_.size() - 1.
  std::deque<std::shared_ptr<const std::string>> frames_ TENAX_GUARDED_BY(mutex_);
  std::uint64_t first_sequence_ TENAX_GUARDED_BY(mutex_) = 1;
  std::size_t bytes_ TENAX_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<const std::string> state_frame_ TENAX_GUARDED_BY(mutex_);
  std::uint64_t state_version_ TENAX_GUARDED_BY(mutex_) = 0;
  bool closed_ TENAX_GUARDED_BY(mutex_) = false;
};

}  // namespace tenax::actors
