// The CPU engine's Communicator: Gloo's TCP transport with send and receive only, one connection
// between each two ranks. Threads as in Communicator; besides, one watcher thread a communicator
// and one epoll thread a GlooDevice.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "compute/block_pool.h"
#include "compute/communicator.h"
#include "compute/cpu/gloo_device.h"
#include "compute/cpu/gloo_link.h"
#include "compute/flight_recorder.h"

namespace tenax::compute {

struct GlooOptions {
  int rank = 0;
  int world_size = 1;
  Duration form_timeout{};       ///< for create()
  Duration operation_timeout{};  ///< for each Transfer::wait(); rounded up to milliseconds
  std::string key_prefix;        ///< the generation: equal on all ranks, never used twice in a run
  FlightRecorder* recorder = nullptr;  ///< outlives the communicator and its transfers
};

class GlooCommunicator final : public Communicator {
 public:
  /// Blocks until all ranks are connected and have answered. kTimeout names a rank that is missing,
  /// kUnavailable one that went away. A request on `stop` ends forming with kAborted within
  /// milliseconds, and after forming aborts the communicator: one stop source a generation serves
  /// the thread that aborts. (It cannot interrupt Rendezvous::wait(key, timeout); that is called
  /// for at most 20 ms at a time.)
  static Result<std::unique_ptr<Communicator>> create(std::shared_ptr<GlooDevice> device,
                                                      const GlooOptions& options,
                                                      std::shared_ptr<Rendezvous> rendezvous,
                                                      std::stop_token stop = {});
  /// Transfers not waited for are given up, and then the peers see a broken connection. If there
  /// are none, everything sent arrives.
  ~GlooCommunicator() override;

  int rank() const override { return link_->rank(); }
  int world_size() const override { return link_->world_size(); }
  /// Errors name rank, peer, direction, length and tag. If a peer breaks down, transfers with the
  /// others may still succeed until one with the broken peer is waited for. A length that differs
  /// from the peer's ends in kTimeout.
  std::unique_ptr<Transfer> send(int peer, std::uint64_t tag,
                                 std::span<const std::byte> bytes) override;
  std::unique_ptr<Transfer> recv(int peer, std::uint64_t tag, std::span<std::byte> bytes) override;
  void abort(std::string reason) override;
  FlightRecorder* flight_recorder() const override { return recorder_; }

 private:
  GlooCommunicator(std::shared_ptr<GlooLink> link, const GlooOptions& options,
                   std::stop_token stop);
  std::unique_ptr<Transfer> start(Direction direction, int peer, std::uint64_t tag, std::byte* data,
                                  std::size_t bytes, std::chrono::steady_clock::time_point latest);
  /// Tells all peers who this is and checks who they are: proves that every rank has formed, and
  /// that a connection from an older generation was not taken for one of this.
  Status greet(const std::string& generation_name, std::chrono::steady_clock::time_point deadline);

  const std::shared_ptr<GlooLink> link_;
  const Duration operation_timeout_;
  FlightRecorder* const recorder_;
  const std::shared_ptr<BlockPool> transfer_memory_ = std::make_shared<BlockPool>();
  std::optional<std::stop_callback<std::function<void()>>> abort_on_stop_;
};

}  // namespace tenax::compute
