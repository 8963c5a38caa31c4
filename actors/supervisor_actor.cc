#include "actors/supervisor_actor.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "actors/event_codec.h"
#include "actors/handler_watch.h"
#include "actors/network_interface.h"
#include "actors/process.h"
#include "actors/shard_codec.h"
#include "checkpoint/slot.h"
#include "scheduler/exit_code.h"
#include "scheduler/run_json.h"

namespace tenax::actors {

namespace {

constexpr auto kTick = std::chrono::milliseconds(10);
constexpr auto kPause = std::chrono::milliseconds(300);
constexpr std::size_t kMaxBuffered = 64;
constexpr auto kShowInterval = std::chrono::milliseconds(100);
constexpr auto kEndWait = std::chrono::seconds(5);

/// Whether anything must happen in the world: then the record is synced before it does.
bool is_decision(const std::vector<scheduler::Command>& commands) {
  return std::any_of(commands.begin(), commands.end(), [](const scheduler::Command& c) {
    return !std::holds_alternative<scheduler::Note>(c);
  });
}

}  // namespace

Supervisor::Supervisor(caf::stateful_actor<SupervisorState>* self,
                       SupervisorEnvironment environment, InheritedState inherited)
    : self_(self),
      e_(std::move(environment)),
      state_(std::move(inherited.state)),
      seq_(inherited.last_seq),
      term_(inherited.term) {}

Duration Supervisor::scaled(Duration d) const {
  return from_seconds(to_seconds(d) * e_.options.config.run.time_scale);
}

void Supervisor::start() {
  const Time now = e_.clock.now();
  e_.registry.put({self_->id(), 0, "supervisor", "supervisor", "up", fmt::format("term {}", term_),
                   getpid(), now});
  writer_ = self_->spawn<caf::detached + caf::linked>(store_writer, e_.store,
                                                      caf::actor_cast<caf::actor>(self_));
  verifier_ = self_->spawn<caf::detached + caf::linked>(store_verifier, e_.store,
                                                        caf::actor_cast<caf::actor>(self_));
  e_.registry.put({writer_->id(), self_->id(), "store", "store writer", "up",
                   "journal, commits, deletions", 0, now});
  e_.registry.put({verifier_->id(), self_->id(), "store", "store verifier", "up",
                   "reads checkpoints back", 0, now});

  scheduler::SupervisorStarted started;
  started.term = term_;
  started.total_steps = e_.options.config.train.steps;
  started.config_changes = e_.options.config_changes;
  if (const auto manifests = e_.store->manifests()) {
    for (const auto& m : *manifests) started.manifests.push_back(m.checkpoint_id);
  }
  for (std::uint32_t id = 0; id < state_.agents.size(); ++id) {
    const scheduler::AgentState& agent = state_.agents[id];
    if (agent.gone || agent.pid == 0) continue;
    // One that joined may have named the directory in another way; one elsewhere may answer.
    const std::string word = agent.joined ? "--join" : e_.options.directory.path().string();
    if (agent.host != host_name() || is_alive(static_cast<pid_t>(agent.pid), word))
      started.agents_alive.push_back(id);
  }
  feed(std::move(started));
  self_->delayed_send(self_, kTick, TickAtom::value);
}

// --- Deciding

void Supervisor::feed(scheduler::Event event) {
  const Time now = e_.clock.now();
  std::vector<scheduler::Command> commands = e_.controller.decide(state_, event, now);
  if (commands.empty() && std::holds_alternative<scheduler::TimerFired>(event)) return;
  scheduler::JournalEntry entry{
      ++seq_, now, term_, state_.generation, std::move(event), std::move(commands)};
  const std::string text = scheduler::to_json(entry);
  buffered_.push_back({entry.seq, text});
  e_.view.record(entry, text, e_.http);
  view_stale_ = true;
  const bool decision = is_decision(entry.commands);
  if (decision) {
    flush(true, scheduler::to_json(state_));
    undispatched_.emplace_back(entry.seq, entry.commands);
  } else if (buffered_.size() >= kMaxBuffered) {
    flush(false, std::nullopt);
  }
  if (decision) show();
}

void Supervisor::show() {
  view_stale_ = false;
  shown_at_ = e_.clock.now();
  e_.view.show(state_, e_.http);
}

void Supervisor::flush(bool synced, std::optional<std::string> state) {
  if (buffered_.empty()) return;
  AppendJournal append;
  append.records = std::exchange(buffered_, {});
  append.state = std::move(state);
  append.synced = synced;
  self_->send(writer_, std::move(append));
}

void Supervisor::on(const Journalled& done) {
  if (!done.error.empty()) {
    // Write-ahead cannot be kept: nothing more may be decided. The last committed checkpoint is
    // intact.
    undispatched_.clear();
    if (!ending_)
      act(scheduler::Finish{scheduler::kExitStore, "the journal cannot be written: " + done.error});
    return;
  }
  while (!undispatched_.empty() && undispatched_.front().first <= done.seq) {
    const auto commands = std::move(undispatched_.front().second);
    undispatched_.pop_front();
    for (const scheduler::Command& c : commands) act(c);
  }
  if (state_.counted_step != acknowledged_) {
    acknowledged_ = state_.counted_step;
    send_to_all(message(wire::ReportAck{state_.branch, acknowledged_}));
  }
}

void Supervisor::tick() {
  const Time now = e_.clock.now();
  // After a pause of this process (SIGSTOP, a suspended machine) what came meanwhile is heard
  // first.
  const bool paused = now - last_tick_ > kPause;
  last_tick_ = now;
  const auto deadline = e_.controller.next_deadline(state_);
  if (!paused && deadline && now >= *deadline) feed(scheduler::TimerFired{});
  flush(false, std::nullopt);
  if (view_stale_ && e_.clock.now() - shown_at_ >= kShowInterval) show();
  if (ending_) end_if_possible();
  self_->delayed_send(self_, kTick, TickAtom::value);
}

// --- What comes in

void Supervisor::on(const Frame& frame) {
  const wire::Message& m = *frame.message;
  if (m.run_id != e_.options.identity.secret || m.term > term_) return;
  const bool from_socket = frame.socket >= 0;
  if (from_socket) {
    if (std::holds_alternative<wire::AgentHello>(m.body)) {
      join(frame);
      return;
    }
    if (const auto* ask = std::get_if<wire::JoinRequest>(&m.body)) {
      if (ending_) return;
      askers_[ask->token] = frame.peer;
      feed(*to_event(m));
      return;
    }
    const auto it = incarnations_.find(m.agent);
    if (it == incarnations_.end() || it->second != m.agent_incarnation || m.term != term_) {
      // An agent that was given up while its host could not be reached learns it when it can.
      if (m.term == term_ && !is_member(m)) dismiss(frame);
      return;  // G2
    }
    Frame checked = frame;
    checked.socket = -1;
    self_->send(proxies_.at(m.agent), checked);
    return;
  }
  if (const auto* beat = std::get_if<wire::Heartbeat>(&m.body)) {
    judge_paces(m.generation, *beat);
    return;
  }
  if (const auto* value = std::get_if<wire::RendezvousValue>(&m.body)) {
    if (value->generation == state_.generation) send_to_all(message(*value));
    return;
  }
  if (const auto* written = std::get_if<wire::ShardWritten>(&m.body)) {
    const bool committed =
        std::any_of(state_.checkpoints.begin(), state_.checkpoints.end(),
                    [&](const auto& c) { return c.id == written->checkpoint_id && c.committed; });
    if (committed) {  // an earlier supervisor committed it and died before it could say so
      release(written->branch, written->step, true);
      return;
    }
    auto files = decode_shard_files(written->shard);
    if (!files) {
      feed(scheduler::ShardFailed{written->rank, m.generation, written->branch, written->step,
                                  written->checkpoint_id, files.error().message});
      return;
    }
    shards_[written->checkpoint_id][written->rank] = *std::move(files);
  }
  if (auto event = to_event(m)) feed(*std::move(event));
}

void Supervisor::judge_paces(std::uint64_t generation, const wire::Heartbeat& beat) {
  if (generation != state_.generation) return;
  if (generation != paces_generation_) {
    paces_generation_ = generation;
    paces_.clear();
    straggles_.clear();
  }
  for (const wire::WorkerPace& p : beat.paces)
    paces_[static_cast<int>(p.rank)] = {p.busy_seconds, p.past_seconds, p.steps};
  auto scores = scheduler::straggler_scores(state_.degrees, paces_, straggles_);
  for (const auto& [rank, score] : scores) {
    bool& straggled = straggles_[rank];
    if (straggled == score.straggles) continue;
    straggled = score.straggles;
    feed(scheduler::PaceChanged{static_cast<std::uint32_t>(rank), generation, score.straggles,
                                score.score(), score.text});
  }
  e_.view.set_scores(std::move(scores));
}

void Supervisor::join(const Frame& frame) {
  const wire::Message& m = *frame.message;
  const auto& hello = std::get<wire::AgentHello>(m.body);
  if (!is_member(m)) {
    dismiss(frame);
    return;
  }
  if (incarnations_.contains(m.agent) && incarnations_[m.agent] == m.agent_incarnation) return;
  if (!processes_.contains(m.agent_incarnation) && hello.host == host_name()) {
    if (auto process = Process::attach(static_cast<pid_t>(hello.pid))) {
      processes_.insert(m.agent_incarnation);
      e_.watcher.watch(m.agent_incarnation, *std::move(process));
    }
  }
  AgentProxyOptions options;
  options.agent = m.agent;
  options.incarnation = m.agent_incarnation;
  options.pid = hello.pid;
  options.heartbeat_interval = scaled(e_.options.config.supervision.heartbeat_interval);
  options.heartbeat_timeout = scaled(e_.options.config.supervision.heartbeat_timeout);
  wire::Message beat = message(wire::Heartbeat{});
  beat.agent_incarnation = m.agent_incarnation;
  options.beat = [sockets = &e_.sockets, router = e_.router, peer = frame.peer,
                  bytes = wire::encode(beat)] { sockets->send(router, peer, bytes); };
  options.registry = &e_.registry;
  options.clock = &e_.clock;
  incarnations_[m.agent] = m.agent_incarnation;
  proxies_[m.agent] = spawn_agent_proxy(self_, std::move(options));
  send_to_agent(m.agent, message(wire::Welcome{}));
  feed(*to_event(m));
}

bool Supervisor::is_member(const wire::Message& m) const {
  return m.agent < state_.agents.size() && !state_.agents[m.agent].gone &&
         m.agent_incarnation == state_.agents[m.agent].incarnation;
}

void Supervisor::dismiss(const Frame& frame) {
  wire::Message bye = message(wire::Shutdown{"another agent has taken this place"});
  bye.agent_incarnation = frame.message->agent_incarnation;
  e_.sockets.send(e_.router, frame.peer, wire::encode(bye));
}

void Supervisor::on(const AgentGone& gone) {
  if (const auto it = incarnations_.find(gone.agent);
      it != incarnations_.end() && it->second == gone.incarnation) {
    incarnations_.erase(it);
    proxies_.erase(gone.agent);
  }
  if (ending_) return;
  feed(scheduler::AgentLost{gone.agent, gone.incarnation, gone.evidence});
}

void Supervisor::on(const ChildExited& exited) {
  if (replay_ended(exited)) return;
  processes_.erase(exited.token);
  for (const auto& [agent, incarnation] : incarnations_) {
    if (incarnation != exited.token) continue;
    self_->send(proxies_.at(agent), exited);
    return;
  }
  if (ending_) return;
  for (std::uint32_t agent = 0; agent < state_.agents.size(); ++agent) {
    if (state_.agents[agent].incarnation == exited.token) {
      feed(scheduler::AgentLost{agent, exited.token, "its process " + exited.status});
      return;
    }
  }
}

void Supervisor::on(const CommitDone& done) {
  if (done.error.empty()) {
    if (const auto it = std::find_if(state_.checkpoints.begin(), state_.checkpoints.end(),
                                     [&](const auto& c) { return c.id == done.checkpoint_id; });
        it != state_.checkpoints.end()) {
      release(it->branch, it->step, true);
    }
  }
  shards_.erase(done.checkpoint_id);
  feed(scheduler::CommitEnded{done.checkpoint_id, done.error.empty(), done.error, done.bytes,
                              done.free_bytes});
}

void Supervisor::on(const VerifyDone& done) {
  feed(scheduler::VerifyEnded{done.checkpoint_id, done.error.empty(), done.error});
}

void Supervisor::on(const ChangeRun& change) {
  if (!ending_) feed(change.event);
}

void Supervisor::on(const StopRun& stop) { feed(scheduler::StopRequested{stop.kind, stop.by}); }

void Supervisor::on(const AbandonRun&) {
  for (const std::uint64_t incarnation : processes_) e_.watcher.signal(incarnation, SIGKILL);
  ending_ = true;
  ending_since_ = e_.clock.now();
  exit_code_ = scheduler::kExitAbandoned;
  reason_ = "left at once";
}

// --- The end

void Supervisor::act(const scheduler::Finish& c) {
  if (ending_) return;
  ending_ = true;
  ending_since_ = e_.clock.now();
  exit_code_ = c.exit_code;
  reason_ = c.reason;
  send_to_all(message(wire::Shutdown{c.reason}));
}

void Supervisor::end_if_possible() {
  if (!processes_.empty()) {
    if (e_.clock.now() - ending_since_ > scaled(kEndWait)) {
      for (const std::uint64_t incarnation : processes_) e_.watcher.signal(incarnation, SIGKILL);
    }
    return;
  }
  if (e_.on_end == nullptr) return;
  static_cast<void>(checkpoint::unlink_segments(e_.options.identity.id));
  std::exchange(e_.on_end, nullptr)(RunOutcome{exit_code_, reason_, state_});
}

caf::behavior supervisor_actor(caf::stateful_actor<SupervisorState>* self,
                               SupervisorEnvironment environment, InheritedState inherited) {
  self->set_exception_handler(
      [](caf::scheduled_actor*, std::exception_ptr& e) { return to_exit_reason(e); });
  self->set_down_handler(
      [](const caf::down_msg&) {});  // proxies say AgentGone themselves, with their evidence
  auto s = std::make_shared<Supervisor>(self, std::move(environment), std::move(inherited));
  return {
      timed([s](StartAtom) { s->start(); }),          timed([s](TickAtom) { s->tick(); }),
      timed([s](const Frame& m) { s->on(m); }),       timed([s](const AgentGone& m) { s->on(m); }),
      timed([s](const ChildExited& m) { s->on(m); }), timed([s](const Journalled& m) { s->on(m); }),
      timed([s](const CommitDone& m) { s->on(m); }),  timed([s](const VerifyDone& m) { s->on(m); }),
      timed([s](const StopRun& m) { s->on(m); }),     timed([s](const ChangeRun& m) { s->on(m); }),
      timed([s](const AbandonRun& m) { s->on(m); })};
}

}  // namespace tenax::actors
