// Point-to-point transfers between the workers of one generation. Collectives
// (compute/collectives.h) are written on top of this interface, so that their order of summation is
// ours and the same on every backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/clock.h"
#include "common/result.h"

namespace tenax::compute {

class FlightRecorder;

/// A transfer in flight. The buffer given to send() or recv() must outlive it.
class Transfer {
 public:
  virtual ~Transfer() = default;  ///< an unfinished transfer is cancelled
  /// Blocks until the bytes have moved. kAborted after Communicator::abort, kTimeout when the peer
  /// did not answer in time, kUnavailable when the connection broke; after any error the
  /// communicator is dead.
  virtual Status wait() = 0;
};

/// One generation's connections of one rank. send/recv/wait: one thread (the engine's). abort: any
/// thread.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  /// Messages between two ranks match by tag; several with one tag match in order of posting.
  virtual std::unique_ptr<Transfer> send(int peer, std::uint64_t tag,
                                         std::span<const std::byte> bytes) = 0;
  /// `bytes.size()` must equal the sender's.
  virtual std::unique_ptr<Transfer> recv(int peer, std::uint64_t tag,
                                         std::span<std::byte> bytes) = 0;
  /// Makes every pending and future wait() return kAborted with `reason`. Returns at once;
  /// idempotent.
  virtual void abort(std::string reason) = 0;
  /// Where transfers and collectives of this rank are recorded; null if nowhere.
  virtual FlightRecorder* flight_recorder() const { return nullptr; }
};

/// How ranks find each other's addresses; the supervisor relays between workers. Implementations
/// are thread safe.
class Rendezvous {
 public:
  virtual ~Rendezvous() = default;
  virtual Status publish(const std::string& key, std::string value) = 0;
  /// Blocks until `key` was published by some rank, kTimeout, or kAborted once the generation
  /// ended.
  virtual Result<std::string> wait(const std::string& key) = 0;
  /// As wait(key), but kTimeout after `timeout` at the latest. The default relies on wait(key)'s
  /// own limit.
  virtual Result<std::string> wait(const std::string& key, [[maybe_unused]] Duration timeout) {
    return wait(key);
  }
};

}  // namespace tenax::compute
