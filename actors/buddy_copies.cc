#include "actors/buddy_copies.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "actors/network_interface.h"

namespace tenax::actors {

BuddyCopies::BuddyCopies(const RunDirectory& directory, const RunIdentity& identity,
                         const configs::NetworkSection& network, std::uint32_t agent,
                         std::uint32_t num_agents, Duration timeout) {
  const auto address = resolve_address("network.control_interface", network.control_interface);
  auto store = address ? BuddyStore::open(identity, *address, agent)
                       : Result<std::unique_ptr<BuddyStore>>(address.error());
  const Status told =
      store ? directory.write_bulk_endpoint(agent, (*store)->endpoint()) : Status(store.error());
  if (told) {
    store_ = *std::move(store);
  } else {
    spdlog::error("no buddy copies are taken here: {}", told.error().message);
  }
  const std::uint32_t buddy = buddy_of(agent, num_agents);
  BuddySenderOptions options;
  options.identity = identity;
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
