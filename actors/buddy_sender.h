// The sending half of buddy copies: copies sealed slots of this agent's workers to the buddy's
// BuddyStore, one after the other, on a thread and a socket of its own. Training never waits for
// it: a slot that is reused in the meantime is given up, and of jobs that wait only the newest of
// each slot is done. Thread safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "actors/run_directory.h"
#include "common/annotations.h"
#include "common/clock.h"
#include "common/result.h"
#include "wire/bulk_message.h"
#include "wire/peer_sockets.h"

namespace tenax::actors {

struct CopyJob {
  wire::SlotId id;
  std::uint64_t generation = 0;
  std::uint64_t incarnation = 0;  ///< of the worker that sealed the slot
};

struct BuddySenderOptions {
  RunIdentity identity;
  std::uint32_t agent = 0;
  /// Without a word from the buddy for so long, the copy is given up.
  Duration timeout = std::chrono::seconds(5);
  /// Where the buddy listens; asked before each copy, for it may have been restarted.
  std::function<Result<std::string>()> endpoint;
  /// Called on the sender's thread after each copy.
  std::function<void(const CopyJob&, const Status&)> on_done;
};

class BuddySender {
 public:
  explicit BuddySender(BuddySenderOptions options);
  /// Gives up what is under way.
  ~BuddySender();
  BuddySender(const BuddySender&) = delete;
  BuddySender& operator=(const BuddySender&) = delete;

  /// Returns at once.
  void copy(const CopyJob& job);

 private:
  void run(const std::stop_token& stop);
  Status transfer(const CopyJob& job, const std::stop_token& stop);
  Status connect();
  void on(std::span<const std::byte> frame);
  /// Waits for a credit of `transfer`, or (`all_sent`) for its end.
  Status wait(std::uint64_t transfer, bool all_sent, const std::stop_token& stop);
  void send(wire::BulkBody body);

  const BuddySenderOptions options_;
  std::string endpoint_;
  wire::PeerSockets::SocketId socket_ = -1;
  std::uint64_t last_transfer_ = 0;

  Mutex mutex_;
  CondVar changed_;
  std::map<std::uint32_t, CopyJob> waiting_ TENAX_GUARDED_BY(mutex_);  // by slot
  std::uint64_t current_ TENAX_GUARDED_BY(mutex_) = 0;
  std::uint32_t credits_ TENAX_GUARDED_BY(mutex_) = 0;
  std::uint64_t heard_ TENAX_GUARDED_BY(mutex_) = 0;
  std::optional<std::string> stored_ TENAX_GUARDED_BY(mutex_);

  wire::PeerSockets sockets_;
  std::jthread thread_;  // last: ends first
};

}  // namespace tenax::actors
