#include "actors/buddy_copies.h"

#include <spdlog/spdlog.h>

#include <utility>

namespace tenax::actors {

BuddyCopies::BuddyCopies(const RunDirectory& directory, const RunIdentity& identity,
                         std::uint32_t agent, std::uint32_t num_agents, Duration timeout) {
  auto store = BuddyStore::open(identity.id, identity.secret, agent);
  const Status told =
      store ? directory.write_bulk_endpoint(agent, (*store)->endpoint()) : Status(store.error());
  if (told) {
    store_ = *std::move(store);
  } else {
    spdlog::error("no buddy copies are taken here: {}", told.error().message);
  }
  const std::uint32_t buddy = buddy_of(agent, num_agents);
  BuddySenderOptions options;
  options.run_id = identity.id;
  options.secret = identity.secret;
  options.agent = agent;
  options.timeout = timeout;
  options.endpoint = [directory, buddy] { return directory.read_bulk_endpoint(buddy); };
  options.on_done = [buddy](const CopyJob& job, const Status& status) {
    if (status) {
      spdlog::info("agent {} has a copy of slot {}, step {}", buddy, job.id.slot, job.id.step);
    } else {
      spdlog::warn("no copy of slot {}, step {} with agent {}: {}", job.id.slot, job.id.step, buddy,
                   status.error().message);
    }
  };
  sender_ = std::make_unique<BuddySender>(std::move(options));
}

}  // namespace tenax::actors
