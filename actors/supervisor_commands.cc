// What the supervisor does for the controller's commands: messages to agents, processes, work for
// the store. The other half of supervisor_actor.cc.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "actors/network_interface.h"
#include "actors/process.h"
#include "actors/supervisor_actor.h"

namespace tenax::actors {

namespace {

std::string routing_id(std::uint32_t agent, std::uint64_t incarnation) {
  return fmt::format("a{}.{}", agent, incarnation);
}

}  // namespace

wire::Message Supervisor::message(wire::Body body) const {
  wire::Message m;
  m.run_id = e_.options.identity.secret;
  m.term = term_;
  m.generation = state_.generation;
  m.body = std::move(body);
  return m;
}

void Supervisor::send_to_agent(std::uint32_t agent, wire::Message m) {
  const auto it = incarnations_.find(agent);
  if (it == incarnations_.end()) return;
  m.agent = agent;
  m.agent_incarnation = it->second;
  e_.sockets.send(e_.router, routing_id(agent, it->second), wire::encode(m));
}

void Supervisor::send_to_all(const wire::Message& m) {
  for (const auto& [agent, incarnation] : incarnations_) send_to_agent(agent, m);
}

void Supervisor::act(const scheduler::Command& command) {
  std::visit([this](const auto& c) { act(c); }, command);
}

void Supervisor::act(const scheduler::SpawnAgent& c) {
  if (ending_) return;
  Process::SpawnOptions spawn;
  spawn.arguments = agent_launcher(e_.options.config.network, c.agent);
  for (std::string argument :
       {self_path(), std::string("agent"), std::string("--run-dir"),
        e_.options.directory.path().string(), std::string("--agent"), std::to_string(c.agent),
        std::string("--incarnation"), std::to_string(c.incarnation)}) {
    spawn.arguments.push_back(std::move(argument));
  }
  spawn.log_path = (e_.options.directory.logs() / fmt::format("agent-{}.log", c.agent)).string();
  auto process = Process::spawn(spawn);
  if (!process) {
    feed(scheduler::AgentLost{c.agent, c.incarnation, process.error().message});
    return;
  }
  processes_.insert(c.incarnation);
  e_.watcher.watch(c.incarnation, *std::move(process));
}

void Supervisor::act(const scheduler::SpawnWorker& c) {
  wire::Message m = message(wire::SpawnWorker{});
  m.slot = c.slot;
  m.worker_incarnation = c.incarnation;
  send_to_agent(c.agent, std::move(m));
}

void Supervisor::act(const scheduler::KillWorker& c) {
  wire::Message m = message(wire::KillWorker{c.reason});
  m.slot = c.slot;
  m.worker_incarnation = c.incarnation;
  send_to_agent(c.agent, std::move(m));
}

void Supervisor::act(const scheduler::KillAgent& c) { e_.watcher.signal(c.incarnation, SIGKILL); }

void Supervisor::act(const scheduler::AdmitAgent& c) {
  const auto it = askers_.find(c.token);
  if (it == askers_.end()) return;
  wire::Message m = message(wire::Admitted{c.token, c.refusal});
  m.agent = c.agent;
  m.agent_incarnation = c.incarnation;
  e_.sockets.send(e_.router, it->second, wire::encode(m));
  askers_.erase(it);
}

void Supervisor::act(const scheduler::ReleaseAgent& c) {
  wire::Message m = message(wire::Shutdown{c.reason});
  send_to_agent(c.agent, std::move(m));
}

void Supervisor::act(const scheduler::AbortGeneration& c) {
  wire::Message m = message(wire::Abort{c.generation, c.counted_step, c.reason});
  m.generation = c.generation;
  send_to_all(m);
}

void Supervisor::act(const scheduler::StartGeneration& c) {
  for (std::size_t rank = 0; rank < c.seats.size(); ++rank) {
    wire::Message m =
        message(wire::PlanFor{static_cast<std::uint32_t>(rank), c.plan, e_.options.config_text});
    m.generation = c.plan.generation;
    m.slot = c.seats[rank].slot;
    m.worker_incarnation = c.seats[rank].incarnation;
    send_to_agent(c.seats[rank].agent, std::move(m));
  }
}

void Supervisor::act(const scheduler::IssueCommand& c) {
  send_to_all(message(wire::Command{c.command}));
}

checkpoint::Manifest Supervisor::manifest_of(const scheduler::CommitCheckpoint& c) const {
  checkpoint::Manifest m;
  m.checkpoint_id = c.checkpoint_id;
  m.run_id = e_.options.identity.id;
  m.branch = c.branch;
  for (const scheduler::BranchInfo& b : state_.branches)
    m.parents.push_back({b.id, b.parent, b.step});
  m.step = c.step;
  m.generation = c.checkpoint_id >> 32;
  m.sample_position = c.position;
  m.skip_windows = state_.skip_windows;
  for (const Softening& s : state_.softenings) {
    m.schedule_changes.push_back({"learning_rate_factor", s.factor, s.first, s.last});
  }
  m.config_digest = configs::config_digest(e_.options.config);
  m.data_digest = e_.options.data_digest;
  m.arithmetic = e_.options.identity.arithmetic;
  const Degrees& d = state_.degrees;
  m.layout = fmt::format("dp {} x tp {} x pp {}", d.dp, d.tp, d.pp);
  m.created = e_.clock.now();
  m.run_state = scheduler::to_json(state_);
  return m;
}

void Supervisor::act(const scheduler::CommitCheckpoint& c) {
  auto manifest = std::make_shared<checkpoint::Manifest>(manifest_of(c));
  CommitFiles commit;
  std::string problem;
  for (const auto& [rank, files] : shards_[c.checkpoint_id]) {
    if (const Status s = checkpoint::add_to_manifest(files, *manifest); !s)
      problem = s.error().message;
    commit.files.insert(commit.files.end(), files.files.begin(), files.files.end());
  }
  if (!problem.empty()) {
    on(CommitDone{c.checkpoint_id, 0, problem, 0});
    return;
  }
  if (e_.options.config.train.device == configs::ComputeDevice::kCuda)
    commit.gpu_plans = e_.options.directory.gpu_plans().string();
  commit.manifest = std::move(manifest);
  self_->send(writer_, std::move(commit));
}

void Supervisor::release(std::uint64_t branch, std::int64_t step, bool committed) {
  send_to_all(message(wire::CheckpointClosed{branch, step, committed}));
}

void Supervisor::act(const scheduler::DiscardCheckpoint& c) {
  release(c.branch, c.step, false);
  const auto it = shards_.find(c.checkpoint_id);
  if (it == shards_.end()) return;
  DropFiles drop;
  for (const auto& [rank, files] : it->second) {
    for (const auto& file : files.files) drop.paths.push_back(file.path);
  }
  shards_.erase(it);
  self_->send(writer_, std::move(drop));
}

void Supervisor::act(const scheduler::VerifyCheckpoint& c) {
  self_->send(verifier_, VerifyFull{c.checkpoint_id});
}

void Supervisor::act(const scheduler::DeleteCheckpoint& c) {
  self_->send(writer_, RemoveCheckpoint{c.checkpoint_id});
}

}  // namespace tenax::actors
