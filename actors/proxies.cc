#include "actors/proxies.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "actors/handler_watch.h"

namespace tenax::actors {

void ActorRegistry::put(const ActorInfo& info) {
  MutexLock lock(mutex_);
  actors_[info.id] = info;
}

void ActorRegistry::note(std::uint64_t id, const std::string& state, const std::string& detail) {
  MutexLock lock(mutex_);
  const auto it = actors_.find(id);
  if (it == actors_.end()) return;
  it->second.state = state;
  it->second.detail = detail;
}

void ActorRegistry::remove(std::uint64_t id) {
  MutexLock lock(mutex_);
  actors_.erase(id);
}

std::vector<ActorInfo> ActorRegistry::list() const {
  MutexLock lock(mutex_);
  std::vector<ActorInfo> out;
  for (const auto& [id, info] : actors_) out.push_back(info);
  return out;
}

namespace {

struct WorkerProxyState {
  static inline const char* name = "worker_proxy";
};

/// Ends itself on workerExited, with the frame kept for its parent's down handler.
caf::behavior worker_proxy(caf::stateful_actor<WorkerProxyState>* self, ActorInfo info,
                           ActorRegistry* registry, caf::actor supervisor) {
  info.id = self->id();
  registry->put(info);
  self->attach_functor([registry, id = info.id] { registry->remove(id); });
  return {timed([=](const Frame& frame) {
    const wire::Body& body = frame.message->body;
    if (const auto* formed = std::get_if<wire::RankFormed>(&body)) {
      registry->note(info.id, "training", fmt::format("rank {}: {}", formed->rank, formed->source));
    } else if (const auto* stopped = std::get_if<wire::RankStopped>(&body)) {
      registry->note(info.id, "stopped",
                     fmt::format("rank {}: {}", stopped->rank, stopped->reason));
    } else if (const auto* finished = std::get_if<wire::RankFinished>(&body)) {
      registry->note(info.id, "finished",
                     fmt::format("rank {}, step {}", finished->rank, finished->step));
    }
    self->send(supervisor, frame);
    if (std::holds_alternative<wire::WorkerExited>(body)) self->quit();
  })};
}

struct AgentProxyState {
  static inline const char* name = "agent_proxy";
  std::map<std::uint64_t, caf::actor> workers;  ///< by incarnation
  Time last_heard;
  Time last_tick;
};

caf::behavior agent_proxy(caf::stateful_actor<AgentProxyState>* self, AgentProxyOptions options,
                          caf::actor supervisor) {
  const std::uint64_t id = self->id();
  ActorRegistry* registry = options.registry;
  registry->put({id, supervisor->id(), "agent_proxy", fmt::format("agent {}", options.agent), "up",
                 fmt::format("incarnation {}", options.incarnation), options.pid,
                 options.clock->now()});
  self->attach_functor([registry, id] { registry->remove(id); });
  self->state.last_heard = self->state.last_tick = options.clock->now();
  self->set_exception_handler(
      [](caf::scheduled_actor*, std::exception_ptr& e) { return to_exit_reason(e); });
  self->set_down_handler([self](const caf::down_msg& down) {
    auto& workers = self->state.workers;
    for (auto it = workers.begin(); it != workers.end(); ++it) {
      if (it->second.address() == down.source) {
        workers.erase(it);
        return;
      }
    }
  });
  const auto end = [=](const std::string& evidence) {
    for (const auto& [incarnation, worker] : self->state.workers) {
      self->send_exit(worker, caf::exit_reason::kill);
    }
    self->send(supervisor, AgentGone{options.agent, options.incarnation, evidence});
    self->quit();
  };
  const auto worker_of = [=](const wire::Message& m) -> const caf::actor& {
    caf::actor& worker = self->state.workers[m.worker_incarnation];
    if (!worker) {
      const auto* up = std::get_if<wire::WorkerUp>(&m.body);
      const ActorInfo info{0,
                           id,
                           "worker_proxy",
                           fmt::format("worker {}.{}", m.agent, m.slot),
                           "up",
                           {},
                           up != nullptr ? static_cast<std::int64_t>(up->pid) : 0,
                           options.clock->now()};
      worker = self->spawn<caf::monitored + caf::linked>(worker_proxy, info, registry, supervisor);
    }
    return worker;
  };
  self->delayed_send(self, options.heartbeat_interval, TickAtom::value);
  return {timed([=](const Frame& frame) {
            self->state.last_heard = options.clock->now();
            const wire::Message& m = *frame.message;
            if (const auto* beat = std::get_if<wire::Heartbeat>(&m.body)) {
              if (!beat->paces.empty()) self->send(supervisor, frame);
              return;
            }
            // Step reports of several workers keep the order in which the agent sent them.
            if (m.worker_incarnation == 0 || std::holds_alternative<wire::StepDone>(m.body)) {
              self->send(supervisor, frame);
            } else {
              self->send(worker_of(m), frame);
            }
          }),
          timed([=](const ChildExited& exited) { end(exited.status); }), timed([=](TickAtom) {
            options.beat();
            // After a pause of this process what came meanwhile is heard first.
            const Time now = options.clock->now();
            if (now - self->state.last_tick > 3 * options.heartbeat_interval)
              self->state.last_heard = std::max(self->state.last_heard, now);
            self->state.last_tick = now;
            const Duration silent = now - self->state.last_heard;
            if (silent > options.heartbeat_timeout) {
              end(fmt::format("silent for {:.1f} s", to_seconds(silent)));
              return;
            }
            self->delayed_send(self, options.heartbeat_interval, TickAtom::value);
          })};
}

}  // namespace

caf::actor spawn_agent_proxy(caf::event_based_actor* supervisor, AgentProxyOptions options) {
  return supervisor->spawn<caf::monitored + caf::linked>(agent_proxy, std::move(options),
                                                         caf::actor_cast<caf::actor>(supervisor));
}

}  // namespace tenax::actors
