// The receiving half of buddy copies: an agent holds, in shared memory of its host, copies of the
// sealed slots of another agent's workers, and gives them back to a worker that has lost its own.
// Two segments for each remote slot, so that a whole copy is there while the next one arrives. A
// bulk socket of its own, whose thread does the work; credits bound what is on the way. Thread
// safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "actors/run_directory.h"
#include "checkpoint/slot.h"
#include "common/result.h"
#include "wire/bulk_message.h"
#include "wire/peer_sockets.h"

namespace tenax::actors {

/// The agent that holds copies of `agent`'s slots: the next one, which is on another host where
/// there are several.
constexpr std::uint32_t buddy_of(std::uint32_t agent, std::uint32_t num_agents) {
  return (agent + 1) % num_agents;
}

class BuddyStore {
 public:
  /// Listens on `address` of this host with the run's keys (W1); frames without its secret are
  /// dropped (W2). `agent` is the one that holds the copies. Copies left by an earlier agent in
  /// this place are taken over.
  static Result<std::unique_ptr<BuddyStore>> open(const RunIdentity& identity,
                                                  const std::string& address, std::uint32_t agent);
  ~BuddyStore();

  /// For RunDirectory::write_bulk_endpoint().
  const std::string& endpoint() const { return endpoint_; }

 private:
  using Place = std::pair<std::uint32_t, std::uint32_t>;  ///< agent, slot

  struct Copy {
    std::optional<checkpoint::SlotPair> slots;
    int newest = 1;
  };
  struct Transfer {
    wire::BulkOffer offer;
    int index = 0;
    std::span<std::byte> into;
    std::uint64_t received = 0;
  };

  BuddyStore(const RunIdentity& identity, std::uint32_t agent);

  void on(const std::string& peer, std::span<const std::byte> frame);
  void on(const std::string& peer, const wire::BulkOffer& offer);
  void on(const std::string& peer, const wire::BulkPiece& piece);
  void on(const std::string& peer, const wire::BulkSeal& seal);
  void on(const std::string& peer, const wire::BulkFetch& fetch);
  void on(const std::string&, const wire::BulkCredit&) {}
  void on(const std::string&, const wire::BulkStored&) {}
  void on(const std::string&, const wire::BulkFetched&) {}

  Result<Copy*> copy_for(const wire::BulkOffer& offer);
  std::string prefix_of(Place place) const;
  void answer(const std::string& peer, wire::BulkBody body);

  const std::string run_id_;
  const std::string secret_;
  const std::uint32_t agent_;
  std::string endpoint_;
  wire::PeerSockets::SocketId socket_ = -1;
  // Touched by the sockets' thread only.
  std::map<Place, Copy> copies_;
  std::map<std::string, Transfer> transfers_;  // by peer: each sends one at a time
  wire::PeerSockets sockets_;                  // last: its thread ends before the rest goes
};

}  // namespace tenax::actors
