// An agent's part in buddy copies: it takes copies of another agent's slots and makes copies of its
// own workers'. Thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "actors/buddy_sender.h"
#include "actors/buddy_store.h"
#include "actors/run_directory.h"
#include "common/clock.h"
#include "configs/run_config.h"

namespace tenax::actors {

class BuddyCopies {
 public:
  /// Says in the run directory where copies are taken. Where that fails, or the buddy does not
  /// answer, the log says so and the store still has everything.
  BuddyCopies(const RunDirectory& directory, const RunIdentity& identity,
              const configs::NetworkSection& network, std::uint32_t agent, std::uint32_t num_agents,
              Duration timeout);

  /// Returns at once.
  void copy(const CopyJob& job) { sender_->copy(job); }

 private:
  std::unique_ptr<BuddyStore> store_;
  std::unique_ptr<BuddySender> sender_;
};

}  // namespace tenax::actors
