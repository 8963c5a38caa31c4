#include "actors/agent.h"

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "actors/agent_actor.h"
#include "actors/handler_watch.h"

namespace tenax::actors {

namespace {

caf::behavior agent_actor(caf::stateful_actor<AgentState>* self, const Environment& environment) {
  self->set_exception_handler(
      [](caf::scheduled_actor*, std::exception_ptr& e) { return to_exit_reason(e); });
  auto agent = std::make_shared<Agent>(self, environment);
  return {timed([agent](const Frame& frame) { agent->on(frame); }),
          timed([agent](const ChildExited& exited) { agent->on(exited); }),
          timed([agent](const KillNow& kill) { agent->on(kill); }),
          timed([agent](const LeaveRun& leave) { agent->leave(leave.reason); }),
          timed([agent](SlotWritten& written) { agent->on(written); }),
          timed([agent](StartAtom) { agent->start(); }),
          timed([agent](TickAtom) { agent->tick(); })};
}

}  // namespace

int run_agent(const AgentOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  spdlog::flush_on(spdlog::level::info);
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ agent %P %l %v", spdlog::pattern_time_type::utc);
  const RunDirectory directory(options.run_dir);
  const auto identity = directory.identity();
  if (!identity) {
    spdlog::error("{}", identity.error().message);
    return 1;
  }
  const auto config = configs::load_run_config(directory.config(), {});
  if (!config) {
    spdlog::error("{}", config.error().message);
    return 1;
  }
  sigset_t signals;
  sigemptyset(&signals);
  if (options.join) {
    for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&signals, s);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread is started
  }
  int exit_code = 1;
  const std::string join_token = options.join ? random_token() : std::string();
  caf::actor agent;
  ActorConfig actor_config(2);
  caf::actor_system system(actor_config);
  wire::PeerSockets sockets(
      identity->keys, [&](int socket, const std::string& peer, std::span<const std::byte> frame) {
        auto message = wire::decode(frame);
        if (!message) {
          spdlog::warn("dropped a frame: {}", message.error().message);
          return;
        }
        caf::anon_send(
            agent, Frame{socket, peer, std::make_shared<const wire::Message>(*std::move(message))});
      });
  ProcessWatcher watcher([&](std::uint64_t token, pid_t pid, std::string status) {
    caf::anon_send(agent, ChildExited{token, pid, std::move(status)});
  });
  agent = system.spawn(agent_actor, Environment{options, directory, *identity, join_token, *config,
                                                sockets, watcher, exit_code});
  caf::anon_send(agent, StartAtom::value);  // only now may frames arrive
  std::thread signal_waiter;                // never joined: the process ends with _exit
  if (options.join) {
    signal_waiter = std::thread([&signals, &agent] {
      for (int number = 0; sigwait(&signals, &number) == 0;)
        caf::anon_send(agent, LeaveRun{fmt::format("signal {} ({})", number, strsignal(number))});
    });
  }
  {
    caf::scoped_actor self(system);
    self->wait_for(agent);
  }
  spdlog::default_logger()->flush();
  _exit(exit_code);  // worker processes die with this one; nothing needs unwinding
}

}  // namespace tenax::actors
