// The supervisor's stand-ins for remote processes: one actor an agent, and under it one actor a
// worker. They end when their process ends, so the tree on the dashboard is the real actor tree.
// They check what comes from their process, keep its last words for the dashboard, and pass it on
// to the supervisor.
#pragma once

#include <caf/all.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "actors/caf_messages.h"
#include "common/annotations.h"
#include "common/clock.h"
#include "wire/message.h"

namespace tenax::actors {

/// What the dashboard shows of an actor.
struct ActorInfo {
  std::uint64_t id = 0;
  std::uint64_t parent = 0;
  std::string kind;
  std::string name;
  std::string state;
  std::string detail;
  std::int64_t pid = 0;
  Time since{};
};

/// The living actors of the supervisor's process. Thread safe.
class ActorRegistry {
 public:
  void put(const ActorInfo& info);
  void note(std::uint64_t id, const std::string& state, const std::string& detail);
  void remove(std::uint64_t id);
  std::vector<ActorInfo> list() const;

 private:
  mutable Mutex mutex_;
  std::map<std::uint64_t, ActorInfo> actors_ TENAX_GUARDED_BY(mutex_);
};

/// An agent ended, or its session did.
struct AgentGone {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  std::string evidence;
};

struct AgentProxyOptions {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  std::int64_t pid = 0;
  Duration heartbeat_interval{};
  Duration heartbeat_timeout{};
  std::function<void()> beat;  ///< sends a heartbeat to the agent
  ActorRegistry* registry = nullptr;
  const Clock* clock = nullptr;
};

/// Frames of its agent go in; what is sound comes out to `supervisor` as Frame, and AgentGone at
/// the end. ChildExited ends it with that status as evidence.
caf::actor spawn_agent_proxy(caf::event_based_actor* supervisor, AgentProxyOptions options);

}  // namespace tenax::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::AgentGone)
