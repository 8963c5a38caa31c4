// The ZeroMQ sockets of one process. One thread owns them all; other threads post work to it. A
// ROUTER accepts many peers named by their routing id, a DEALER dials one. Sends never block: a
// frame for a peer that is not connected is dropped and counted, because every message of the
// protocol is either repeated or answered (docs/protocol.md). Every connection is encrypted and
// authenticated with CURVE, on loopback too: one way, tested everywhere. Thread rule: the public
// methods may be called from any thread; the handler runs on the sockets' thread and must only hand
// the frame on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/result.h"
#include "wire/key_pair.h"

namespace tenax::wire {

class PeerSockets {
 public:
  using SocketId = int;
  /// `peer` is the routing id of the sender on a ROUTER, empty on a DEALER.
  using Handler =
      std::function<void(SocketId, const std::string& peer, std::span<const std::byte> frame)>;

  /// `keys`, the run's (is_valid): a peer that does not have them reaches nothing and nobody.
  PeerSockets(const KeyPair& keys, Handler handler);
  /// Closes every socket; frames not yet sent are given `linger` of 200 ms.
  ~PeerSockets();
  PeerSockets(const PeerSockets&) = delete;
  PeerSockets& operator=(const PeerSockets&) = delete;

  struct Bound {
    SocketId socket = -1;
    std::string endpoint;  ///< with the port that was chosen
  };
  /// Binds a ROUTER, for example to "tcp://127.0.0.1:*". kInUse when the address is taken.
  Result<Bound> bind_router(const std::string& endpoint);
  /// Dials `endpoint` in the background, for ever, as `routing_id`.
  Result<SocketId> connect_dealer(const std::string& endpoint, const std::string& routing_id);
  void close(SocketId socket);

  /// `peer` is ignored for a DEALER.
  void send(SocketId socket, std::string peer, std::string frame);

  /// Frames that could not be handed to a connected peer.
  std::uint64_t num_dropped() const;

 private:
  struct Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace tenax::wire
