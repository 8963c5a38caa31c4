// The connections of one generation and the transfers in flight on them. Shared by the communicator
// and its transfers, so a transfer that outlives its communicator is harmless. Guarded; used by the
// engine's thread, by the thread that aborts and by a watcher thread of its own.
//
// Why the watcher: Gloo tells a broken connection only to transfers that have not begun to move;
// one that is half sent or half received would wait for its timeout. So a receive that nobody
// answers stays posted to every peer. Gloo fails it when the connection breaks, and the watcher
// then wakes whoever waits for that peer.
#pragma once

#include <gloo/transport/unbound_buffer.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/result.h"
#include "compute/cpu/gloo_device.h"
#include "compute/flight_recorder.h"

namespace gloo::transport {
class Context;
}

namespace tenax::compute {

enum class Direction : std::uint8_t { kSend, kRecv };

/// One transfer as the link sees it. Everything but `buffer` belongs to the link's lock.
struct GlooOperation {
  Direction direction;
  int peer;
  std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
  bool waiting = false;  ///< a thread is blocked in buffer->wait
};

class GlooLink {
 public:
  /// `mesh` is connected (or has no peers).
  GlooLink(std::shared_ptr<GlooDevice> device, std::shared_ptr<gloo::transport::Context> mesh);
  /// close() was called before.
  ~GlooLink() = default;
  GlooLink(const GlooLink&) = delete;
  GlooLink& operator=(const GlooLink&) = delete;

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  /// Starts moving bytes. `operation` must stay where it is until release().
  Status post(GlooOperation& operation, std::uint64_t tag, std::byte* data, std::size_t bytes);
  /// Blocks until the bytes have moved, at most `timeout`. After an error the link is dead.
  Status wait(GlooOperation& operation, Duration timeout);
  /// Ends a posted operation. One that was not waited for is cancelled, which kills the link.
  void release(GlooOperation& operation);
  void abort(std::string reason);
  /// Ends the watcher and the connections. What send operations have been waited for still arrives
  /// at the peers, unless the link is dead.
  void close();

 private:
  /// Why no transfer with `peer` can succeed any more, if so.
  std::optional<Error> failure(int peer) const;
  /// Returns why the link is dead: `error`, unless it died before.
  Error die(Error error);
  Status try_wait(GlooOperation& operation, Duration timeout);
  void watch();
  /// Remembers that the connection to `peer` broke and wakes who waits for it.
  void mark_broken(int peer, std::string reason);
  void close_connections();

  const std::shared_ptr<GlooDevice> device_;
  const int rank_;
  const int world_size_;

  mutable std::mutex mutex_;
  std::shared_ptr<gloo::transport::Context> mesh_;
  std::optional<Error> dead_;                      // the first failure, or the abort
  std::vector<std::optional<Error>> peer_failed_;  // by rank
  std::vector<GlooOperation*> in_flight_;
  bool aborted_ = false;
  bool closing_ = false;

  /// The receive that nobody answers, posted to all peers; renewed after each break.
  std::shared_ptr<gloo::transport::UnboundBuffer> alarm_;
  std::thread watcher_;
};

}  // namespace tenax::compute
