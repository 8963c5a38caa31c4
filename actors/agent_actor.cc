#include "actors/agent_actor.h"

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "actors/agent.h"
#include "actors/agent_state.h"
#include "actors/buddy_copies.h"
#include "actors/caf_messages.h"
#include "actors/handler_watch.h"
#include "actors/network_interface.h"
#include "actors/process.h"
#include "actors/process_evidence.h"
#include "actors/process_watcher.h"
#include "actors/run_directory.h"
#include "actors/slot_writer.h"
#include "checkpoint/slot.h"
#include "configs/run_config.h"
#include "wire/peer_sockets.h"

namespace tenax::actors {

namespace {

constexpr std::size_t kMaxReports = 100000;
constexpr auto kExitWait = std::chrono::seconds(2);
constexpr auto kStackWait = std::chrono::milliseconds(150);  ///< for the threads to answer
constexpr std::size_t kLogTailBytes = 4096;
constexpr auto kJoinWait = std::chrono::seconds(15);

}  // namespace

Agent::Agent(caf::stateful_actor<AgentState>* self, const Environment& e)
    : self_(self), s_(self->state), e_(e) {
  s_.agent = e.options.agent;
  s_.incarnation = e.options.incarnation;
}

void Agent::start() {
  s_.last_heard = std::chrono::steady_clock::now();
  if (auto presence = checkpoint::RunPresence::announce(e_.identity.id)) {
    presence_.emplace(*std::move(presence));
  } else {
    spdlog::warn("{}", presence.error().message);
  }
  const auto bound = e_.sockets.bind_router("tcp://127.0.0.1:*");
  if (!bound) {
    spdlog::error("{}", bound.error().message);
    finish(1);
    return;
  }
  s_.router = bound->socket;
  s_.endpoint = bound->endpoint;
  if (!e_.options.join) start_writer();
  look_for_supervisor();
  tick();
}

void Agent::tick() {
  const auto now = std::chrono::steady_clock::now();
  if (s_.ending) {
    end_if_possible(now);
  } else if (s_.incarnation == 0) {
    ask_again(now);
  } else {
    wire::Heartbeat beat{++s_.heartbeats, {}};
    for (const auto& [slot, w] : s_.workers) {
      if (w.training && w.steps > 0)
        beat.paces.push_back(
            {static_cast<std::uint32_t>(w.rank), w.busy_seconds, w.past_seconds, w.steps});
    }
    send_up(message(std::move(beat)));
    const auto silent = now - s_.last_heard;
    if (silent > 2 * scaled(e_.config.supervision.heartbeat_interval)) look_for_supervisor();
    if (silent > scaled(e_.config.supervision.supervisor_grace)) {
      spdlog::error("no supervisor for {:.1f} s: the workers are stopped", to_seconds(silent));
      begin_end(75);
    }
  }
  self_->delayed_send(self_,
                      s_.ending ? Duration(std::chrono::milliseconds(10))
                                : scaled(e_.config.supervision.heartbeat_interval),
                      TickAtom::value);
}

void Agent::on(const Frame& frame) {
  const wire::Message& m = *frame.message;
  if (m.run_id != e_.identity.secret) return;
  if (frame.socket == s_.router) {
    from_worker(m);
  } else if (const auto* admitted = std::get_if<wire::Admitted>(&m.body)) {
    on_admitted(*admitted, m);
  } else {
    from_supervisor(m);
  }
}

void Agent::on(const ChildExited& exited) {
  for (auto& [slot, w] : s_.workers) {
    if (w.incarnation != exited.token) continue;
    spdlog::info("worker {} (pid {}) {}", slot, exited.pid, exited.status);
    wire::Message m = message(wire::WorkerExited{
        static_cast<std::uint32_t>(exited.pid), exited.status, w.expected_to_end,
        w.expected_to_end ? std::string() : tail_of(log_of(slot), kLogTailBytes)});
    m.slot = slot;
    m.worker_incarnation = w.incarnation;
    s_.workers.erase(slot);
    send_up(std::move(m));
    return;
  }
}

void Agent::leave(const std::string& reason) {
  if (s_.incarnation == 0 || std::exchange(s_.leaving, true)) {
    spdlog::warn("{}: leaving at once", reason);
    begin_end(130);
    return;
  }
  spdlog::info("{}: the workers leave after the step being trained", reason);
  send_up(message(wire::Leaving{reason}));
}

void Agent::on(SlotWritten& written) {
  wire::Message m = message(std::move(written.answer));
  m.generation = written.generation;
  m.slot = written.worker_slot;
  m.worker_incarnation = written.worker_incarnation;
  s_.open_shards[m.worker_incarnation] = m;
  send_up(std::move(m));
}

Duration Agent::scaled(Duration d) const {
  return from_seconds(to_seconds(d) * e_.config.run.time_scale);
}

wire::Message Agent::message(wire::Body body) const {
  wire::Message m;
  m.run_id = e_.identity.secret;
  m.term = s_.term;
  m.generation = s_.generation;
  m.agent = s_.agent;
  m.agent_incarnation = s_.incarnation;
  m.body = std::move(body);
  return m;
}

void Agent::send_up(const wire::Message& m) {
  if (s_.supervisor >= 0) e_.sockets.send(s_.supervisor, "", wire::encode(m));
}

void Agent::send_down(std::uint32_t slot, const wire::Message& m) {
  const auto it = s_.workers.find(slot);
  if (it == s_.workers.end()) return;
  wire::Message copy = m;
  copy.slot = slot;
  copy.worker_incarnation = it->second.incarnation;
  e_.sockets.send(s_.router, fmt::format("w{}.{}", slot, it->second.incarnation),
                  wire::encode(copy));
}

void Agent::send_to_all(const wire::Message& m) {
  for (const auto& [slot, w] : s_.workers) send_down(slot, m);
}

void Agent::start_writer() {
  SlotWriterOptions options;
  options.run_dir = e_.options.run_dir;
  options.run_id = e_.identity.id;
  options.agent = s_.agent;
  options.num_threads = static_cast<int>(e_.config.checkpoint.writer_threads);
  if (e_.config.checkpoint.compression == configs::CompressionKind::kZstd) {
    options.compression = checkpoint::Compression::kZstd;
  }
  s_.writer = self_->spawn<caf::detached + caf::linked>(slot_writer, std::move(options),
                                                        caf::actor_cast<caf::actor>(self_));
  const auto num_agents = static_cast<std::uint32_t>(e_.config.layout.agents);
  if (e_.config.checkpoint.buddy_copies > 0 && num_agents > 1) {
    buddy_ = std::make_unique<BuddyCopies>(e_.directory, e_.identity, e_.config.network, s_.agent,
                                           num_agents, scaled(std::chrono::seconds(5)));
  }
}

void Agent::look_for_supervisor() {
  const auto address = e_.directory.read_address();
  if (!address || address->term <= s_.term) return;
  const bool told = s_.incarnation == 0 && !e_.options.endpoint.empty();
  const std::string& endpoint = told ? e_.options.endpoint : address->endpoint;
  if (!dial(endpoint)) return;
  s_.term = address->term;
  spdlog::info("dialling the supervisor of term {} at {}", s_.term, endpoint);
  if (s_.incarnation == 0) {
    ask();
  } else {
    introduce();
  }
}

bool Agent::dial(const std::string& endpoint) {
  const auto socket = e_.sockets.connect_dealer(
      endpoint,
      s_.incarnation == 0 ? "j" + e_.token : fmt::format("a{}.{}", s_.agent, s_.incarnation));
  if (!socket) {
    spdlog::warn("{}", socket.error().message);
    return false;
  }
  if (s_.supervisor >= 0) e_.sockets.close(s_.supervisor);
  s_.supervisor = *socket;
  s_.supervisor_endpoint = endpoint;
  return true;
}

void Agent::ask() {
  send_up(message(wire::JoinRequest{e_.token, static_cast<std::uint32_t>(getpid()), host_name(),
                                    e_.options.workers}));
}

void Agent::ask_again(std::chrono::steady_clock::time_point now) {
  if (now - s_.last_heard > kJoinWait) {
    spdlog::error("no supervisor of {} answers{}: is the run going on?",
                  e_.directory.path().string(),
                  e_.options.endpoint.empty() ? "" : " at " + e_.options.endpoint);
    finish(4);
    return;
  }
  look_for_supervisor();
  ask();
}

void Agent::on_admitted(const wire::Admitted& admitted, const wire::Message& m) {
  if (s_.incarnation != 0 || admitted.token != e_.token) return;
  if (!admitted.refusal.empty()) {
    spdlog::error("the run does not take this agent: {}", admitted.refusal);
    finish(3);
    return;
  }
  s_.agent = m.agent;
  s_.incarnation = m.agent_incarnation;
  spdlog::info("joined as agent {}", s_.agent);
  start_writer();
  if (dial(std::string(s_.supervisor_endpoint))) introduce();
}

void Agent::introduce() {
  wire::AgentHello hello;
  hello.pid = static_cast<std::uint32_t>(getpid());
  hello.host = host_name();
  hello.num_slots = static_cast<std::uint32_t>(s_.workers.size());
  for (const auto& [slot, w] : s_.workers) {
    hello.workers.push_back({slot, w.incarnation, w.pid, w.rank, w.generation, w.training, w.up});
  }
  send_up(message(std::move(hello)));
  for (auto& [incarnation, shard] : s_.open_shards) {
    shard.term = s_.term;
    send_up(shard);
  }
  for (wire::Message& report : s_.reports) {
    report.term = s_.term;
    send_up(report);
  }
}

void Agent::from_worker(const wire::Message& in) {
  const auto it = s_.workers.find(in.slot);
  if (it == s_.workers.end() || it->second.incarnation != in.worker_incarnation) return;
  WorkerRecord& w = it->second;
  wire::Message m = in;
  m.term = s_.term;
  m.agent_incarnation = s_.incarnation;
  if (const auto* pace = std::get_if<wire::Pace>(&m.body)) {
    if (m.generation == s_.generation) w.add_pace(pace->busy_seconds);
    return;
  }
  if (const auto* up = std::get_if<wire::WorkerUp>(&m.body)) {
    w.pid = up->pid;
    w.up = true;
  } else if (std::holds_alternative<wire::RankFormed>(m.body)) {
    w.training = true;
  } else if (std::holds_alternative<wire::RankStopped>(m.body) ||
             std::holds_alternative<wire::RankFinished>(m.body)) {
    w.training = false;
  } else if (const auto* sealed = std::get_if<wire::SnapshotSealed>(&m.body)) {
    if (m.generation == s_.generation) {
      self_->send(s_.writer, WriteSlot{m.generation, m.slot, m.worker_incarnation, *sealed});
      if (buddy_) {
        buddy_->copy(
            {{s_.agent, m.slot, sealed->branch, sealed->step}, m.generation, m.worker_incarnation});
      }
    }
    return;
  } else if (const auto* done = std::get_if<wire::StepDone>(&m.body)) {
    // Every rank reports every step; one report a host is enough.
    if (m.generation != s_.generation || done->report.step <= s_.newest_report) return;
    s_.newest_report = done->report.step;
    s_.reports.push_back(m);
    if (s_.reports.size() > kMaxReports) s_.reports.pop_front();
  }
  send_up(m);
  const auto* device = std::get_if<wire::DeviceReport>(&m.body);
  if (device != nullptr && device->ends) {
    w.training = false;
    send_down(m.slot, message(wire::Shutdown{"nothing more can be done with its GPU"}));
  }
}

void Agent::from_supervisor(const wire::Message& m) {
  if (m.term < s_.term || m.agent_incarnation != s_.incarnation) return;  // G2
  s_.last_heard = std::chrono::steady_clock::now();
  if (std::holds_alternative<wire::SpawnWorker>(m.body)) {
    spawn(m.slot, m.worker_incarnation);
  } else if (const auto* kill = std::get_if<wire::KillWorker>(&m.body)) {
    kill_worker(m.slot, m.worker_incarnation, kill->reason);
  } else if (const auto* plan = std::get_if<wire::PlanFor>(&m.body)) {
    enter(m.generation);
    const auto it = s_.workers.find(m.slot);
    if (it == s_.workers.end() || it->second.incarnation != m.worker_incarnation) return;
    it->second.rank = static_cast<std::int32_t>(plan->rank);
    it->second.generation = m.generation;
    it->second.training = false;
    it->second.steps = 0;  // another rank, another load
    send_down(m.slot, m);
  } else if (std::holds_alternative<wire::Abort>(m.body)) {
    enter(m.generation);
    send_to_all(m);
  } else if (const auto* ack = std::get_if<wire::ReportAck>(&m.body)) {
    while (!s_.reports.empty() &&
           std::get<wire::StepDone>(s_.reports.front().body).report.step <= ack->step) {
      s_.reports.pop_front();
    }
  } else if (const auto* shutdown = std::get_if<wire::Shutdown>(&m.body)) {
    spdlog::info("shutdown: {}", shutdown->reason);
    begin_end(0);
  } else if (std::holds_alternative<wire::CheckpointClosed>(m.body)) {
    s_.open_shards.clear();  // a worker has one snapshot in flight at most
    send_to_all(m);
  } else if (std::holds_alternative<wire::RendezvousValue>(m.body) ||
             std::holds_alternative<wire::Command>(m.body)) {
    send_to_all(m);
  }
}

std::filesystem::path Agent::log_of(std::uint32_t slot) const {
  return e_.directory.logs() / fmt::format("worker-{}.{}.log", s_.agent, slot);
}

void Agent::kill_worker(std::uint32_t slot, std::uint64_t incarnation, const std::string& reason) {
  const auto it = s_.workers.find(slot);
  if (it == s_.workers.end() || it->second.incarnation != incarnation) return;
  spdlog::warn("worker {} is killed: {}", slot, reason);
  const auto pid = static_cast<pid_t>(it->second.pid);
  append_to(log_of(slot), fmt::format("killed: {}\n{}", reason, thread_states(pid)));
  ask_for_stacks(pid);
  self_->delayed_send(self_, kStackWait, KillNow{incarnation});
}

void Agent::enter(std::uint64_t generation) {
  if (generation <= s_.generation) return;
  s_.generation = generation;
  s_.reports.clear();
  s_.newest_report = -1;
  s_.open_shards.clear();
}

void Agent::spawn(std::uint32_t slot, std::uint64_t incarnation) {
  if (s_.ending) return;
  if (const auto it = s_.workers.find(slot); it != s_.workers.end()) {
    it->second.expected_to_end = true;
    e_.watcher.signal(it->second.incarnation, SIGKILL);
  }
  Process::SpawnOptions spawn;
  spawn.arguments = {self_path(),
                     "worker",
                     "--run-dir",
                     e_.options.run_dir.string(),
                     "--agent-endpoint",
                     s_.endpoint,
                     "--agent",
                     std::to_string(s_.agent),
                     "--agent-incarnation",
                     std::to_string(s_.incarnation),
                     "--slot",
                     std::to_string(slot),
                     "--incarnation",
                     std::to_string(incarnation),
                     "--parent-pid",
                     std::to_string(getpid())};
  spawn.log_path = log_of(slot).string();
  auto process = Process::spawn(spawn);
  WorkerRecord record;
  record.incarnation = incarnation;
  if (!process) {
    spdlog::error("{}", process.error().message);
    wire::Message m = message(wire::WorkerExited{0, process.error().message, false});
    m.slot = slot;
    m.worker_incarnation = incarnation;
    send_up(m);
    return;
  }
  record.pid = static_cast<std::uint32_t>(process->pid());
  s_.workers[slot] = record;
  e_.watcher.watch(incarnation, *std::move(process));
}

void Agent::begin_end(int code) {
  if (s_.ending) return;
  s_.ending = true;
  e_.exit_code = code;
  s_.ending_since = std::chrono::steady_clock::now();
  send_to_all(message(wire::Shutdown{"the agent ends"}));
  self_->send(self_, TickAtom::value);
}

void Agent::end_if_possible(std::chrono::steady_clock::time_point now) {
  if (s_.workers.empty()) {
    finish(e_.exit_code);
  } else if (now - s_.ending_since > kExitWait) {
    for (const auto& [slot, w] : s_.workers) e_.watcher.signal(w.incarnation, SIGKILL);
  }
}

void Agent::finish(int code) {
  e_.exit_code = code;
  spdlog::info("longest handler: {:.6f} s", to_seconds(longest_handler()));
  buddy_.reset();
  presence_.reset();
  if (s_.incarnation == 0) {
    self_->quit();
    return;
  }
  // A successor's workers hold theirs; a dead worker's of another agent are wanted by its successor
  // as long as anybody of the run is here.
  const std::string own =
      checkpoint::slot_owner_prefix(e_.identity.id, fmt::format("a{}", s_.agent));
  for (const auto& segment : checkpoint::list_segments(e_.identity.id)) {
    if (segment.name.starts_with(own) || !checkpoint::is_run_present(segment.name))
      checkpoint::unlink_unheld(segment.name);
  }
  self_->quit();
}

}  // namespace tenax::actors
