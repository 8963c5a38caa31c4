#include "tests/support/controlled_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "scheduler/layout.h"
#include "scheduler/rank_assignment.h"
#include "scheduler/run_json.h"
#include "tests/support/controlled_weights.h"

namespace tenax::test {

ControlledRun::ControlledRun(ControlledRunOptions options)
    : options_(std::move(options)),
      controller_(options_.controller),
      agents_(static_cast<std::size_t>(options_.controller.num_agents)) {}

// --- The controller

std::vector<Command> ControlledRun::feed(const Event& event) {
  std::vector<Command> commands = controller_.decide(state, event, now_);
  recorded_.push_back({event, now_, commands});
  for (const Command& c : commands) {
    if (const auto* plan = std::get_if<StartGeneration>(&c)) check_plan(*plan);
    commands_.push_back(c);
  }
  check_state();
  for (const Command& c : commands) act(c);
  return commands;
}

void ControlledRun::feed_and_forget(const Event& event) {
  std::vector<Command> commands = controller_.decide(state, event, now_);
  for (const Command& c : commands) {
    if (const auto* plan = std::get_if<StartGeneration>(&c)) check_plan(*plan);
    commands_.push_back(c);
  }
  recorded_.push_back({event, now_, std::move(commands)});
  check_state();
}

bool ControlledRun::fire_timer() {
  const std::optional<Time> deadline = controller_.next_deadline(state);
  if (!deadline) return false;
  const std::string before = to_json(state);
  now_ = std::max(now_, *deadline);
  const auto commands = feed(TimerFired{});
  const std::optional<Time> next = controller_.next_deadline(state);
  if (commands.empty() && to_json(state) == before && next && *next <= now_) {
    violate("a timer that changes nothing is due at once again");
  }
  return true;
}

void ControlledRun::start() {
  supervisor_up_ = true;
  SupervisorStarted started;
  started.term = ++term_;
  started.total_steps = options_.total_steps;
  started.manifests = manifests();
  for (std::uint32_t id = 0; id < agents_.size(); ++id) {
    if (agents_[id].alive) started.agents_alive.push_back(id);
  }
  feed(started);
  for (std::uint32_t id : started.agents_alive) hello(id);
}

void ControlledRun::crash_supervisor() {
  supervisor_up_ = false;
  for (Agent& a : agents_) {
    a.dialled = a.connected = a.watched = false;
    a.up_queue.clear();
    a.down_queue.clear();
    for (auto& [slot, w] : a.workers) w->up_queue.clear();
  }
  exits_.clear();
  store_jobs_.clear();
  staged_.clear();
}

void ControlledRun::restart_supervisor() {
  auto read = run_state_from_json(to_json(state));
  if (!read) {
    violate("the saved state cannot be read: " + read.error().message);
    return;
  }
  if (to_json(*read) != to_json(state)) violate("the saved state is not what was saved");
  state = *std::move(read);
  start();
}

void ControlledRun::check_plan(const StartGeneration& start) {
  const Plan& plan = start.plan;
  const int ranks = plan.degrees.world_size();
  if (start.seats.size() != static_cast<std::size_t>(ranks) ||
      plan.sources.size() != start.seats.size()) {
    violate("a plan without a seat or a source for every rank");
    return;
  }
  if (plan.step > state.counted_step) violate("a plan goes on after a step that is not counted");
  std::set<std::uint64_t> used;
  for (const auto& seat : start.seats) used.insert(seat.incarnation);
  if (used.size() != start.seats.size()) violate("two ranks of a plan share a worker");
  const auto reaches = [&](int rank) {
    const Worker* w = worker_at(start.seats[rank]);
    if (w == nullptr || w->held.branch != plan.branch ||
        !holds_shard_of(w->held, plan.degrees, rank, options_.controller.zero)) {
      return false;
    }
    return w->held.last_applied == plan.step ||
           (plan.has_half_step && w->held.last_applied + 1 == plan.step &&
            w->held.gradients_ready == plan.step);
  };
  for (int rank = 0; rank < ranks; ++rank) {
    const RankSource& s = plan.sources[rank];
    switch (s.kind) {
      case SourceKind::kInitial:
        if (plan.step != 0) violate("initial weights for a later step");
        break;
      case SourceKind::kMemory:
        // A process that has died meanwhile is found out later.
        if (worker_at(start.seats[rank]) != nullptr && !reaches(rank))
          violate(fmt::format("rank {} is no source", rank));
        break;
      case SourceKind::kPeer: {
        const auto group = data_parallel_group(plan.degrees, rank);
        if (std::find(group.begin(), group.end(), s.peer) == group.end())
          violate("the peer holds another stage");
        else if (plan.sources[s.peer].kind != SourceKind::kMemory)
          violate("the peer has nothing to give");
        break;
      }
      case SourceKind::kCheckpoint: {
        const auto it = store_.find(plan.checkpoint_id);
        if (it == store_.end()) {
          violate("the plan's checkpoint does not exist");
        } else if (it->second.step != plan.step || it->second.branch != plan.checkpoint_branch) {
          violate("the plan's checkpoint is of another step or branch");
        }
        break;
      }
    }
  }
}

void ControlledRun::check_state() {
  const auto& history = state.spikes.history;
  for (std::size_t i = 1; i < history.size(); ++i) {
    if (history[i].step != history[i - 1].step + 1) violate("counted steps are not in order");
  }
  if ((history.empty() ? 0 : history.back().step) != state.counted_step) {
    violate("the counted step is not the last one of the history");
  }
  for (const StepReport& r : history) {
    const auto [begin, end] = positions(r.step, state.skip_windows);
    if (r.position_begin != begin || r.position_end != end) {
      violate(fmt::format("step {} was counted with the samples [{}, {}) instead of [{}, {})",
                          r.step, r.position_begin, r.position_end, begin, end));
    }
  }
  if (state.branch == seen_branch_ && state.counted_step < seen_step_)
    violate("a counted step was forgotten without a rollback");
  seen_branch_ = state.branch;
  seen_step_ = state.counted_step;
}

// --- From the controller to the world

void ControlledRun::send_down(std::uint32_t agent, std::function<void()> deed) {
  if (agents_[agent].alive && agents_[agent].connected)
    agents_[agent].down_queue.push_back(std::move(deed));
}

void ControlledRun::send_down_to_all(const std::function<void(std::uint32_t)>& deed) {
  for (std::uint32_t id = 0; id < agents_.size(); ++id) {
    send_down(id, [deed, id] { deed(id); });
  }
}

void ControlledRun::act(const Command& command) {
  if (const auto* c = std::get_if<SpawnAgent>(&command)) {
    Agent& a = agents_[c->agent];
    a = Agent{};
    a.incarnation = c->incarnation;
    a.alive = a.watched = true;
    hello(c->agent);
  } else if (const auto* s = std::get_if<SpawnWorker>(&command)) {
    send_down(s->agent, [this, s = *s] { spawn(s.agent, s.slot, s.incarnation); });
  } else if (const auto* k = std::get_if<KillWorker>(&command)) {
    send_down(k->agent, [this, k = *k] {
      auto& workers = agents_[k.agent].workers;
      const auto it = workers.find(k.slot);
      if (it == workers.end() || it->second->incarnation != k.incarnation) return;
      workers.erase(it);
      emit(k.agent, WorkerExited{k.agent, k.slot, k.incarnation, "killed by signal 9 (Killed)"});
    });
  } else if (const auto* ka = std::get_if<KillAgent>(&command)) {
    if (agents_[ka->agent].alive && agents_[ka->agent].incarnation == ka->incarnation)
      kill_agent(ka->agent);
  } else if (const auto* ab = std::get_if<AbortGeneration>(&command)) {
    send_down_to_all([this, ab = *ab](std::uint32_t id) { abort(id, ab); });
  } else if (const auto* start = std::get_if<StartGeneration>(&command)) {
    plans_.push_back(start->plan);
    Generation& g = generations_[start->plan.generation];
    g.plan = start->plan;
    g.seats = start->seats;
    g.progress.assign(start->seats.size(), -2);
    for (int rank = 0; rank < static_cast<int>(start->seats.size()); ++rank) {
      const auto seat = start->seats[rank];
      send_down(seat.agent, [this, seat, rank, plan = start->plan] {
        take_plan(seat.agent, seat.slot, seat.incarnation, rank, plan);
      });
    }
  } else if (const auto* ic = std::get_if<IssueCommand>(&command)) {
    const std::uint64_t generation = state.generation;
    send_down_to_all([this, command = ic->command, generation](std::uint32_t id) {
      for (auto& [slot, w] : agents_[id].workers) {
        if (w->running == generation && w->engine != Engine::kIdle)
          w->commands[command.number] = command.kind;
      }
    });
  } else if (const auto* d = std::get_if<DiscardCheckpoint>(&command)) {
    staged_.erase(d->checkpoint_id);
    send_down_to_all([this, d = *d](std::uint32_t id) {
      for (auto& [slot, w] : agents_[id].workers) {
        if (w->in_flight == std::pair(d.branch, d.step)) w->in_flight.reset();
      }
    });
  } else if (const auto* commit = std::get_if<CommitCheckpoint>(&command)) {
    const auto& staged = staged_[commit->checkpoint_id];
    const Degrees& degrees = generations_.at(commit->checkpoint_id >> 32).plan.degrees;
    if (staged.size() != static_cast<std::size_t>(degrees.world_size()))
      violate("a checkpoint is committed that not every rank has written");
    for (const auto& [rank, job] : staged) {
      if (job.branch != commit->branch || job.step != commit->step)
        violate("a checkpoint of several steps");
    }
    if (commit->step > state.counted_step) violate("a checkpoint of a step that is not counted");
    store_jobs_.push_back(command);
  } else if (std::holds_alternative<VerifyCheckpoint>(command)) {
    store_jobs_.push_back(command);
  } else if (const auto* del = std::get_if<DeleteCheckpoint>(&command)) {
    store_.erase(del->checkpoint_id);
  } else if (const auto* admit = std::get_if<AdmitAgent>(&command)) {
    if (!admit->refusal.empty()) return;
    if (agents_.size() <= admit->agent) agents_.resize(admit->agent + 1);
    Agent& a = agents_[admit->agent];
    a = Agent{};
    a.incarnation = admit->incarnation;
    a.alive = a.watched = true;
    hello(admit->agent);
  } else if (const auto* release = std::get_if<ReleaseAgent>(&command)) {
    send_down(release->agent, [this, id = release->agent] { kill_agent(id); });
  } else if (std::holds_alternative<Finish>(command)) {
    for (std::uint32_t id = 0; id < agents_.size(); ++id) {
      if (agents_[id].alive) kill_agent(id);
    }
    exits_.clear();
  }
}

// --- Agents

void ControlledRun::emit(std::uint32_t agent, Event event) {
  Agent& a = agents_[agent];
  if (a.alive && a.dialled) a.up_queue.push_back(std::move(event));
}

void ControlledRun::emit_from(Worker& w, std::uint32_t agent, Event event) {
  if (agents_[agent].alive && agents_[agent].dialled) w.up_queue.push_back(std::move(event));
}

void ControlledRun::hello(std::uint32_t agent) {
  Agent& a = agents_[agent];
  AgentJoined joined;
  joined.agent = agent;
  joined.incarnation = a.incarnation;
  joined.pid = 1000 + agent;
  joined.host = "host";
  for (const auto& [slot, w] : a.workers) {
    joined.workers.push_back({slot, w->incarnation, w->pid, w->rank, w->running, w->training_seen});
  }
  a.dialled = true;
  a.up_queue.clear();
  a.up_queue.push_back(joined);
  for (const StepReported& r : a.reports) a.up_queue.push_back(r);
}

bool ControlledRun::deliver_from_agent(std::uint32_t agent) {
  Agent& a = agents_[agent];
  if (!supervisor_up_ || !a.alive || a.up_queue.empty()) return false;
  const Event event = a.up_queue.front();
  a.up_queue.pop_front();
  if (const auto* joined = std::get_if<AgentJoined>(&event)) {
    if (state.agents[agent].incarnation != joined->incarnation) {
      agents_[agent] = Agent{};
      return true;
    }
    a.connected = a.watched = true;
  }
  feed(event);
  return true;
}

bool ControlledRun::deliver_from_worker(int index) {
  if (!supervisor_up_) return false;
  const Seat& seat = place_of(index);
  Agent& a = agents_[seat.agent];
  const auto it = a.workers.find(seat.slot);
  // The hello comes before anything a worker of the agent says.
  if (!a.alive || !a.connected || it == a.workers.end() || it->second->up_queue.empty())
    return false;
  const Event event = it->second->up_queue.front();
  it->second->up_queue.pop_front();
  feed(event);
  return true;
}

bool ControlledRun::deliver_to_agent(std::uint32_t agent) {
  Agent& a = agents_[agent];
  if (!a.alive || a.down_queue.empty()) return false;
  const auto deed = a.down_queue.front();
  a.down_queue.pop_front();
  deed();
  return true;
}

bool ControlledRun::deliver_exit() {
  if (!supervisor_up_ || exits_.empty()) return false;
  const AgentLost lost = exits_.front();
  exits_.pop_front();
  feed(lost);
  return true;
}

void ControlledRun::spawn(std::uint32_t agent, std::uint32_t slot, std::uint64_t incarnation) {
  auto w = std::make_unique<Worker>();
  w->incarnation = incarnation;
  w->pid = next_pid_++;
  w->alive = true;
  agents_[agent].workers[slot] = std::move(w);
}

bool ControlledRun::boot(int index) {
  Worker* w = worker(index);
  if (w == nullptr || w->up) return false;
  w->up = true;
  const Seat& seat = place_of(index);
  emit_from(*w, seat.agent, WorkerUp{seat.agent, seat.slot, w->incarnation, w->pid});
  return true;
}

void ControlledRun::leave(Worker& w) {
  w.engine = Engine::kIdle;
  w.training_seen = false;
}

RankState ControlledRun::report_state(const Worker& w, std::int64_t counted) const {
  RankState held = w.held;
  held.reports.clear();
  for (const StepReport& r : w.reports) {
    if (r.step > counted) held.reports.push_back(r);
  }
  return held;
}

void ControlledRun::abort(std::uint32_t agent, const AbortGeneration& c) {
  Agent& a = agents_[agent];
  if (c.generation > a.generation) {
    a.generation = c.generation;
    a.reports.clear();
    a.newest_report = -1;
  }
  for (auto& [slot, w] : a.workers) {
    if (!w->up || w->hung || c.generation < w->generation) continue;
    w->generation = c.generation;
    const std::vector<FlightNote> flight = flight_of(*w);
    leave(*w);
    emit_from(*w, agent,
              RankStopped{static_cast<std::uint32_t>(w->rank), c.generation,
                          report_state(*w, c.counted_step), c.reason, 0, w->incarnation, flight});
  }
}

std::vector<FlightNote> ControlledRun::flight_of(const Worker& w) const {
  if (w.engine != Engine::kTraining) return {};
  const std::vector<int>& progress = generations_.at(w.running).progress;
  const auto slowest = std::min_element(progress.begin(), progress.end());
  if (progress[w.rank] <= *slowest) return {};
  return {
      {1, "recv", "all_gather", static_cast<int>(slowest - progress.begin()), 64, "waiting", 1}};
}

void ControlledRun::take_plan(std::uint32_t agent, std::uint32_t slot, std::uint64_t incarnation,
                              int rank, const Plan& plan) {
  Agent& a = agents_[agent];
  if (plan.generation > a.generation) {
    a.generation = plan.generation;
    a.reports.clear();
    a.newest_report = -1;
  }
  const auto it = a.workers.find(slot);
  if (it == a.workers.end() || it->second->incarnation != incarnation) return;
  Worker& w = *it->second;
  if (!w.up || w.hung || plan.generation < w.generation) return;
  if (w.engine != Engine::kIdle) {
    violate("a plan came to a rank that has not left its generation");
    return;
  }
  w.rank = rank;
  w.generation = w.running = plan.generation;
  w.engine = Engine::kForming;
  w.training_seen = false;
  w.commands.clear();
  w.obeyed = 0;
  w.saved_step = -1;
  w.in_flight.reset();
  w.leave_after_save = w.regroup = false;
  generations_.at(plan.generation).progress[rank] = -1;
}

}  // namespace tenax::test
