#include "actors/worker.h"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "actors/caf_messages.h"
#include "actors/generation_link.h"
#include "actors/handler_watch.h"
#include "actors/process.h"
#include "actors/process_evidence.h"
#include "actors/run_directory.h"
#include "actors/train_loop.h"
#include "wire/peer_sockets.h"

namespace tenax::actors {

namespace {

/// The worker's side of its connection to the agent. Thread safe.
class AgentConnection {
 public:
  AgentConnection(const WorkerOptions& options, std::string secret, wire::PeerSockets& sockets)
      : options_(options), secret_(std::move(secret)), sockets_(sockets) {}

  Status connect() {
    TENAX_TRY(socket_, sockets_.connect_dealer(options_.agent_endpoint,
                                               "w" + std::to_string(options_.slot) + "." +
                                                   std::to_string(options_.incarnation)));
    return {};
  }
  void send(std::uint64_t generation, wire::Body body) {
    wire::Message m;
    m.run_id = secret_;
    m.term = term;
    m.generation = generation;
    m.agent = options_.agent;
    m.agent_incarnation = options_.agent_incarnation;
    m.slot = options_.slot;
    m.worker_incarnation = options_.incarnation;
    m.body = std::move(body);
    sockets_.send(socket_, "", wire::encode(m));
  }
  bool is_ours(const wire::Message& m) const {
    return m.run_id == secret_ && m.worker_incarnation == options_.incarnation;
  }

  std::atomic<std::uint64_t> term{0};

 private:
  const WorkerOptions& options_;
  const std::string secret_;
  wire::PeerSockets& sockets_;
  wire::PeerSockets::SocketId socket_ = -1;
};

/// Exit status of a worker whose device failed under it. The agent sees the process end; a new one
/// begins with a new context.
constexpr int kDeviceLostExit = 71;
/// For the agent to take the report of it.
constexpr auto kReportWait = std::chrono::seconds(2);

/// A generation for the engine to run.
struct RunGeneration {
  std::shared_ptr<const wire::Message> plan;
  std::shared_ptr<GenerationLink> link;
};

/// The engine left a generation; no `stopped`: in good order.
struct GenerationEnded {
  std::uint64_t generation = 0;
  std::optional<TrainLoop::Stopped> stopped;
};

/// The agent did not answer a lost device's report.
struct LeaveUnanswered {};

}  // namespace
}  // namespace tenax::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::RunGeneration)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::GenerationEnded)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::LeaveUnanswered)

namespace tenax::actors {
namespace {

struct Parts {
  AgentConnection& agent;
  TrainLoop& loop;
  SlotGate& gate;
  std::atomic<std::uint64_t>& engine_generation;  ///< stamps what the engine sends
  std::atomic<bool>& device_lost;                 ///< it was told; the agent's shutdown ends this
};

/// Detached: runs generations one after the other on a thread of its own.
void engine_actor(caf::blocking_actor* self, Parts parts, caf::actor worker) {
  bool running = true;
  self->receive_while(running)(
      [&](const RunGeneration& run) {
        parts.engine_generation = run.link->generation();
        GenerationEnded ended;
        ended.generation = run.link->generation();
        try {
          ended.stopped = parts.loop.run(std::get<wire::PlanFor>(run.plan->body), *run.link);
        } catch (const std::exception& e) {
          ended.stopped =
              TrainLoop::Stopped{std::string("exception in the engine: ") + e.what(), 0, false};
        }
        self->send(worker, std::move(ended));
      },
      [&](caf::exit_msg&) { running = false; });
}

struct WorkerState {
  static inline const char* name = "worker";
  caf::actor engine;
  std::shared_ptr<GenerationLink> link;  ///< of the generation the engine runs or ran last
  bool engine_busy = false;
  std::uint64_t generation = 0;  ///< newest one heard of
  std::int32_t rank = -1;
  std::optional<wire::Abort> unanswered;  ///< abort that waits for the engine to leave
  std::vector<FlightNote> flight = {};    ///< as it was when that abort came
  /// Addresses that came before their generation's plan.
  std::map<std::uint64_t, std::vector<wire::RendezvousValue>> early;
};

class Worker {
 public:
  Worker(caf::stateful_actor<WorkerState>* self, Parts parts)
      : self_(self), s_(self->state), parts_(parts) {}

  void on(const std::shared_ptr<const wire::Message>& m) {
    if (!parts_.agent.is_ours(*m)) return;
    parts_.agent.term = std::max(parts_.agent.term.load(), m->term);
    if (m->generation < s_.generation) return;  // G2
    const auto* shutdown = std::get_if<wire::Shutdown>(&m->body);
    if (shutdown != nullptr) leave(parts_.device_lost ? kDeviceLostExit : 0, shutdown->reason);
    if (parts_.device_lost) return;  // what it holds is nobody's source
    if (std::holds_alternative<wire::PlanFor>(m->body)) {
      start(m);
    } else if (const auto* abort = std::get_if<wire::Abort>(&m->body)) {
      on_abort(*abort);
    } else if (const auto* value = std::get_if<wire::RendezvousValue>(&m->body)) {
      if (s_.link && s_.link->generation() == value->generation) {
        s_.link->deliver(value->key, value->value);
      } else {
        s_.early[value->generation].push_back(*value);
      }
    } else if (const auto* command = std::get_if<wire::Command>(&m->body)) {
      if (s_.link) s_.link->command(command->command);
    } else if (const auto* closed = std::get_if<wire::CheckpointClosed>(&m->body)) {
      parts_.gate.closed(closed->branch, closed->step, closed->committed);
    }
  }

  void on(const GenerationEnded& ended) {
    s_.engine_busy = false;
    if (ended.stopped)
      spdlog::warn("generation {} ended: {}", ended.generation, ended.stopped->reason);
    if (ended.stopped && ended.stopped->device_lost) {
      self_->delayed_send(self_, kReportWait, LeaveUnanswered{});
      return;
    }
    if (s_.unanswered) {
      answer(*std::exchange(s_.unanswered, std::nullopt),
             ended.stopped ? ended.stopped->bad_checkpoint : 0);
    } else if (ended.stopped) {
      parts_.agent.send(
          s_.generation,
          wire::RankStopped{s_.rank, parts_.loop.state(INT64_MAX), ended.stopped->reason,
                            ended.stopped->bad_checkpoint, parts_.loop.flight()});
    }
  }

  void on(const LeaveUnanswered&) { leave(kDeviceLostExit, "the agent does not answer"); }

 private:
  /// Nothing of a worker needs unwinding: its shards are elsewhere by now.
  [[noreturn]] static void leave(int code, const std::string& reason) {
    spdlog::info("shutdown: {}", reason);
    spdlog::info("longest handler: {:.6f} s", to_seconds(longest_handler()));
    spdlog::default_logger()->flush();
    _exit(code);
  }

  void start(const std::shared_ptr<const wire::Message>& m) {
    const auto& plan = std::get<wire::PlanFor>(m->body);
    if (s_.engine_busy) {
      spdlog::error("a plan of generation {} came while the engine was still busy",
                    plan.plan.generation);
      return;
    }
    s_.generation = plan.plan.generation;
    s_.rank = static_cast<std::int32_t>(plan.rank);
    s_.unanswered.reset();
    parts_.gate.reset();
    s_.link = std::make_shared<GenerationLink>(
        s_.generation, [agent = &parts_.agent, generation = s_.generation](const std::string& key,
                                                                           std::string value) {
          agent->send(generation, wire::RendezvousValue{generation, key, std::move(value)});
        });
    for (wire::RendezvousValue& v : s_.early[s_.generation])
      s_.link->deliver(v.key, std::move(v.value));
    s_.early.clear();
    s_.engine_busy = true;
    spdlog::info("generation {}: rank {} starts after step {}", s_.generation, s_.rank,
                 plan.plan.step);
    self_->send(s_.engine, RunGeneration{m, s_.link});
  }

  void on_abort(const wire::Abort& abort) {
    s_.generation = abort.generation;
    // A spare has no plan that would clear them.
    s_.early.erase(s_.early.begin(), s_.early.lower_bound(abort.generation));
    if (s_.engine_busy) {
      s_.unanswered = abort;
      s_.flight = parts_.loop.flight();  // before the abort ends what it waits for
      s_.link->abort(abort.reason);
    } else {
      answer(abort, 0);
    }
  }

  void answer(const wire::Abort& abort, std::uint64_t bad_checkpoint) {
    parts_.agent.send(
        s_.generation,
        wire::RankStopped{s_.rank, parts_.loop.state(abort.counted_step), abort.reason,
                          bad_checkpoint, std::exchange(s_.flight, {})});
  }

  caf::stateful_actor<WorkerState>* self_;
  WorkerState& s_;
  Parts parts_;
};

caf::behavior worker_actor(caf::stateful_actor<WorkerState>* self, Parts parts) {
  self->set_exception_handler(
      [](caf::scheduled_actor*, std::exception_ptr& e) { return to_exit_reason(e); });
  self->state.engine =
      self->spawn<caf::detached>(engine_actor, parts, caf::actor_cast<caf::actor>(self));
  auto worker = std::make_shared<Worker>(self, parts);
  return {timed([worker](const Frame& frame) { worker->on(frame.message); }),
          timed([worker](const GenerationEnded& ended) { worker->on(ended); }),
          timed([worker](const LeaveUnanswered& late) { worker->on(late); })};
}

}  // namespace

int run_worker(const WorkerOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  if (!die_with_parent(options.parent_pid)) return 1;
  write_stacks_when_asked();
  spdlog::flush_on(spdlog::level::info);
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ worker %P %l %v", spdlog::pattern_time_type::utc);
  const RunDirectory directory(options.run_dir);
  const auto identity = directory.identity();
  if (!identity) {
    spdlog::error("{}", identity.error().message);
    return 1;
  }
  const SystemClock clock;
  SlotGate gate;
  caf::actor worker;
  ActorConfig config(1);
  caf::actor_system system(config);
  wire::PeerSockets sockets(
      identity->keys, [&](int socket, const std::string& peer, std::span<const std::byte> frame) {
        auto message = wire::decode(frame);
        if (!message) {
          spdlog::warn("dropped a frame: {}", message.error().message);
          return;
        }
        caf::anon_send(worker, Frame{socket, peer,
                                     std::make_shared<const wire::Message>(*std::move(message))});
      });
  AgentConnection agent(options, identity->secret, sockets);
  std::atomic<std::uint64_t> engine_generation{0};
  std::atomic<bool> device_lost{false};
  TrainLoopOptions loop_options;
  loop_options.directory = directory;
  loop_options.run_id = identity->id;
  loop_options.agent = options.agent;
  loop_options.slot = options.slot;
  loop_options.incarnation = options.incarnation;
  TrainLoop loop(loop_options, clock, gate, [&](wire::Body body) {
    const auto* device = std::get_if<wire::DeviceReport>(&body);
    if (device != nullptr && device->ends) device_lost = true;
    agent.send(engine_generation, std::move(body));
  });
  worker = system.spawn(worker_actor, Parts{agent, loop, gate, engine_generation, device_lost});
  if (const Status connected = agent.connect(); !connected) {
    spdlog::error("{}", connected.error().message);
    return 1;
  }
  agent.send(0, wire::WorkerUp{static_cast<std::uint32_t>(getpid())});
  caf::scoped_actor self(system);
  self->wait_for(worker);
  spdlog::error("the worker actor ended");
  spdlog::default_logger()->flush();
  _exit(1);
}

}  // namespace tenax::actors
