#include "tests/support/controlled_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "scheduler/layout.h"
#include "scheduler/run_json.h"

namespace tenax::test {

using namespace scheduler;  // NOLINT: the harness speaks the controller's words throughout

namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15ULL + b + 0x7F4A7C15ULL;
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9ULL;
  return x ^ (x >> 29);
}

std::uint64_t initial_weights(const Degrees& degrees, int rank) {
  return mix(17, static_cast<std::uint64_t>(coordinates_of(degrees, rank).pp));
}

std::uint64_t checkpoint_id(std::uint64_t generation, std::int64_t step) {
  return generation << 32 | static_cast<std::uint64_t>(step);
}

}  // namespace

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
  if (seats_.empty()) seats_ = state.seats;
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
  if (start.seats.size() != static_cast<std::size_t>(world()) ||
      plan.sources.size() != start.seats.size()) {
    violate("a plan without a seat or a source for every rank");
    return;
  }
  if (plan.step > state.counted_step) violate("a plan goes on after a step that is not counted");
  const auto reaches = [&](int rank) {
    const Worker* w = worker(rank);
    if (w == nullptr || !w->held.has_weights || w->held.branch != plan.branch) return false;
    return w->held.last_applied == plan.step ||
           (plan.has_half_step && w->held.last_applied + 1 == plan.step &&
            w->held.gradients_ready == plan.step);
  };
  for (int rank = 0; rank < world(); ++rank) {
    const RankSource& s = plan.sources[rank];
    switch (s.kind) {
      case SourceKind::kInitial:
        if (plan.step != 0) violate("initial weights for a later step");
        break;
      case SourceKind::kMemory:
        // A process that has died meanwhile is found out later.
        if (alive(rank) && !reaches(rank)) violate(fmt::format("rank {} is no source", rank));
        break;
      case SourceKind::kPeer: {
        const auto group = data_parallel_group(options_.controller.degrees, rank);
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
    g.progress.assign(world(), -2);
    for (int rank = 0; rank < world(); ++rank) {
      const auto seat = start->seats[rank];
      send_down(seat.agent, [this, seat, rank, plan = start->plan] {
        take_plan(seat.agent, seat.slot, seat.incarnation, rank, plan);
      });
    }
  } else if (const auto* ic = std::get_if<IssueCommand>(&command)) {
    const std::uint64_t generation = state.generation;
    send_down_to_all([this, number = ic->command.number, generation](std::uint32_t id) {
      for (auto& [slot, w] : agents_[id].workers) {
        if (w->running == generation && w->engine != Engine::kIdle) w->commands.insert(number);
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
    if (staged.size() != static_cast<std::size_t>(world()))
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

bool ControlledRun::deliver_from_worker(int rank) {
  if (!supervisor_up_) return false;
  const Seat& seat = state_seat(rank);
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

bool ControlledRun::boot(int rank) {
  Worker* w = worker(rank);
  if (w == nullptr || w->up) return false;
  w->up = true;
  const Seat& seat = state_seat(rank);
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
    leave(*w);
    if (w->rank < 0) continue;  // its rank is -1 in the answer: nobody's
    emit_from(*w, agent,
              RankStopped{static_cast<std::uint32_t>(w->rank), c.generation,
                          report_state(*w, c.counted_step), c.reason, 0});
  }
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
  w.leave_after_save = false;
  generations_.at(plan.generation).progress[rank] = -1;
}

// --- Generations

ControlledRun::Worker* ControlledRun::worker(int rank) {
  Agent& a = agents_[state_seat(rank).agent];
  const auto it = a.workers.find(state_seat(rank).slot);
  return !a.alive || it == a.workers.end() ? nullptr : it->second.get();
}
const ControlledRun::Worker* ControlledRun::worker(int rank) const {
  return const_cast<ControlledRun*>(this)->worker(rank);
}
bool ControlledRun::alive(int rank) const { return worker(rank) != nullptr; }
bool ControlledRun::worker_busy(int rank) const {
  return alive(rank) && worker(rank)->engine != Engine::kIdle;
}
const RankState& ControlledRun::held(int rank) const { return worker(rank)->held; }
std::optional<std::uint64_t> ControlledRun::weights(int rank) const {
  if (!alive(rank) || !worker(rank)->held.has_weights) return std::nullopt;
  return worker(rank)->weights;
}

bool ControlledRun::advance(int rank) {
  Worker* w = worker(rank);
  if (w == nullptr || w->hung || w->engine == Engine::kIdle) return false;
  Generation& g = generations_.at(w->running);
  const int p = g.progress[rank];
  const int slowest = *std::min_element(g.progress.begin(), g.progress.end());
  switch (w->engine) {
    case Engine::kForming:
      return slowest >= -1 && restore(*w, g);
    case Engine::kWaitingForSlot:
      return try_snapshot(*w);
    case Engine::kTraining:
      if (slowest < p) return false;
      return p % 2 == 0 ? compute_gradients(*w, g, p) : take_verdict(*w, g, p);
    case Engine::kIdle:
      break;
  }
  return false;
}

bool ControlledRun::restore(Worker& w, Generation& g) {
  const Plan& plan = g.plan;
  if (g.sources.empty()) {
    for (int rank = 0; rank < world(); ++rank) {
      const Worker* o = worker(rank);
      if (o == nullptr || o->hung || o->engine != Engine::kForming || o->running != w.running)
        return false;
    }
    // All ranks have met: what each one reads or is sent is settled now.
    const auto own = [&](int rank) -> std::uint64_t {
      const Worker* o = worker(rank);
      if (o->held.last_applied == plan.step) return o->weights;
      return std::isnan(plan.half_step.loss)
                 ? o->weights
                 : next_weights(o->weights, plan.step, plan.skip_windows, rank);
    };
    for (int rank = 0; rank < world(); ++rank) {
      const RankSource& s = plan.sources[rank];
      const auto stored = store_.find(plan.checkpoint_id);
      g.sources.push_back(s.kind == SourceKind::kMemory    ? own(rank)
                          : s.kind == SourceKind::kPeer    ? own(s.peer)
                          : s.kind == SourceKind::kInitial ? initial_weights(plan.degrees, rank)
                          : stored != store_.end()         ? stored->second.weights.at(rank)
                                                           : 0);
    }
  }
  const SourceKind kind = plan.sources[w.rank].kind;
  const std::uint32_t agent = state_seat(w.rank).agent;
  if (kind == SourceKind::kCheckpoint &&
      (!store_.contains(plan.checkpoint_id) || store_.at(plan.checkpoint_id).corrupt)) {
    w.held.has_weights = false;
    leave(w);
    emit_from(w, agent,
              RankStopped{static_cast<std::uint32_t>(w.rank), w.generation, report_state(w, -1),
                          "the checkpoint cannot be read", plan.checkpoint_id});
    return true;
  }
  if (kind == SourceKind::kMemory && plan.has_half_step && w.held.last_applied < plan.step) {
    w.reports.push_back(plan.half_step);
  }
  if (kind != SourceKind::kMemory) w.reports.clear();
  w.weights = g.sources[w.rank];
  w.held.has_weights = true;
  w.held.branch = plan.branch;
  w.held.last_applied = plan.step;
  w.held.gradients_ready = 0;
  w.held.verdict_known = false;
  w.engine = Engine::kTraining;
  w.training_seen = true;
  g.progress[w.rank] = static_cast<int>(2 * plan.step);
  emit_from(w, agent,
            RankFormed{static_cast<std::uint32_t>(w.rank), plan.generation, plan.step, "", 0.1});
  if (plan.step >= plan.total_steps) {
    w.leave_after_save = true;
    w.engine = Engine::kWaitingForSlot;
  }
  return true;
}

bool ControlledRun::compute_gradients(Worker& w, Generation& g, int p) {
  const std::int64_t step = p / 2 + 1;
  w.held.gradients_ready = step;
  w.held.verdict_known = false;
  Contribution mine;
  while (w.commands.contains(mine.command + 1)) ++mine.command;
  mine.slot_free = !w.in_flight.has_value();
  g.contributions[step][w.rank] = mine;
  g.progress[w.rank] = p + 1;
  return true;
}

StepReport ControlledRun::make_report(const Generation& g, std::int64_t step) const {
  StepReport r;
  r.branch = g.plan.branch;
  r.step = step;
  std::tie(r.position_begin, r.position_end) = positions(step, g.plan.skip_windows);
  const bool bad = poisoned(step, g.plan.skip_windows);
  r.loss = bad ? std::numeric_limits<double>::quiet_NaN()
               : 2.0 + 1e-12 * static_cast<double>(mix(3, r.position_begin) % 1000000);
  r.grad_norm = bad ? std::numeric_limits<double>::quiet_NaN() : 1.0;
  r.update = bad ? UpdateKind::kSkippedNonFinite : UpdateKind::kApplied;
  r.learning_rate = 1e-3;
  r.tokens = 100;
  r.seconds = 0.01;
  return r;
}

bool ControlledRun::take_verdict(Worker& w, Generation& g, int p) {
  const std::int64_t step = p / 2 + 1;
  const std::uint32_t agent = state_seat(w.rank).agent;
  const StepReport report = make_report(g, step);
  Contribution agreed{std::numeric_limits<std::int64_t>::max(), true};
  for (const auto& [rank, c] : g.contributions.at(step)) {
    agreed.command = std::min(agreed.command, c.command);
    agreed.slot_free = agreed.slot_free && c.slot_free;
  }
  w.held.verdict_known = true;
  w.held.verdict = report;
  if (report.update == UpdateKind::kApplied)
    w.weights = next_weights(w.weights, step, g.plan.skip_windows, w.rank);
  w.held.last_applied = step;
  w.reports.push_back(report);
  g.progress[w.rank] = p + 1;
  Agent& a = agents_[agent];
  if (w.running == a.generation && step > a.newest_report) {
    a.newest_report = step;
    a.reports.push_back({w.running, report});
    emit_from(w, agent, a.reports.back());
  }
  after_step(w, g, step, agreed);
  return true;
}

void ControlledRun::after_step(Worker& w, Generation& g, std::int64_t done,
                               const Contribution& agreed) {
  const bool stop = agreed.command > w.obeyed;
  w.obeyed = agreed.command;
  const bool due =
      options_.save_interval > 0 && done % options_.save_interval == 0 && agreed.slot_free;
  w.leave_after_save = stop || done >= g.plan.total_steps;
  if (due || w.leave_after_save) {
    w.engine = Engine::kWaitingForSlot;
    try_snapshot(w);
  }
}

bool ControlledRun::try_snapshot(Worker& w) {
  const std::uint32_t agent = state_seat(w.rank).agent;
  const Plan& plan = generations_.at(w.running).plan;
  if (w.in_flight) return false;
  w.saved_step = w.held.last_applied;
  w.in_flight = {w.held.branch, w.held.last_applied};
  if (agents_[agent].generation == w.running) {
    agents_[agent].jobs.push_back(
        {w.running, w.rank, w.held.branch, w.held.last_applied, w.weights});
  }
  w.engine = Engine::kTraining;
  if (w.leave_after_save) {
    leave(w);
    emit_from(w, agent,
              RankFinished{static_cast<std::uint32_t>(w.rank), w.running, w.held.last_applied,
                           w.held.last_applied >= plan.total_steps ? FinishCause::kDone
                                                                   : FinishCause::kStopped});
  }
  return true;
}

bool ControlledRun::write_slot(std::uint32_t agent, bool ok) {
  Agent& a = agents_[agent];
  if (!a.alive || a.jobs.empty()) return false;
  const SlotJob job = a.jobs.front();
  a.jobs.pop_front();
  const std::uint64_t id = checkpoint_id(job.generation, job.step);
  if (!ok) {
    emit(agent, ShardFailed{static_cast<std::uint32_t>(job.rank), job.generation, job.branch,
                            job.step, id, "no space left on device"});
    return true;
  }
  if (!a.dialled) return true;  // what it staged is swept by the next supervisor
  staged_[id][job.rank] = job;
  emit(agent, ShardWritten{static_cast<std::uint32_t>(job.rank), job.generation, job.branch,
                           job.step, id, 100, 0.1, std::to_string(job.weights)});
  return true;
}

bool ControlledRun::store_job(bool ok) {
  if (!supervisor_up_ || store_jobs_.empty()) return false;
  const Command command = store_jobs_.front();
  store_jobs_.pop_front();
  if (const auto* commit = std::get_if<CommitCheckpoint>(&command)) {
    if (!ok) {
      staged_.erase(commit->checkpoint_id);
      feed(CommitEnded{commit->checkpoint_id, false, "no space left on device", 0});
      return true;
    }
    Stored stored{commit->branch, commit->step, false, {}};
    for (const auto& [rank, job] : staged_[commit->checkpoint_id])
      stored.weights[rank] = job.weights;
    staged_.erase(commit->checkpoint_id);
    store_[commit->checkpoint_id] = stored;
    send_down_to_all([this, c = *commit](std::uint32_t id) {
      for (auto& [slot, w] : agents_[id].workers) {
        if (w->in_flight == std::pair(c.branch, c.step)) w->in_flight.reset();
      }
    });
    feed(CommitEnded{commit->checkpoint_id, true, "", 400});
  } else if (const auto* verify = std::get_if<VerifyCheckpoint>(&command)) {
    const auto it = store_.find(verify->checkpoint_id);
    const bool good = ok && it != store_.end() && !it->second.corrupt;
    feed(VerifyEnded{verify->checkpoint_id, good, good ? "" : "chunk 3 has another hash"});
  }
  return true;
}

// --- Until quiet

void ControlledRun::settle() {
  bool moved = true;
  while (moved) {
    moved = deliver_exit();
    for (std::uint32_t id = 0; id < agents_.size(); ++id) {
      while (deliver_to_agent(id)) moved = true;
      while (deliver_from_agent(id)) moved = true;
      while (write_slot(id)) moved = true;
    }
    for (int rank = 0; rank < world(); ++rank) {
      moved = boot(rank) || moved;
      while (deliver_from_worker(rank)) moved = true;
      Worker* w = worker(rank);
      if (w != nullptr && (w->engine == Engine::kForming || w->engine == Engine::kWaitingForSlot))
        moved = advance(rank) || moved;
    }
    moved = store_job() || moved;
  }
}

void ControlledRun::run_until_training() {
  for (int i = 0; i < 50; ++i) {
    settle();
    if (state.phase == Phase::kRunning || state.phase == Phase::kFinished) return;
    if (!fire_timer()) break;
  }
  violate("the run does not begin to train in phase " + std::string(to_string(state.phase)));
}

bool ControlledRun::train_to_gradients_of(std::int64_t step) {
  while (true) {
    settle();
    bool moved = false;
    bool all_there = true;
    for (int rank = 0; rank < world(); ++rank) {
      const Worker* w = worker(rank);
      if (w == nullptr) return false;
      const bool there = w->held.gradients_ready >= step;
      all_there = all_there && there;
      if (!there) moved = advance(rank) || moved;
    }
    if (all_there) return true;
    if (!moved) return false;
  }
}

bool ControlledRun::train_to(std::int64_t step) {
  while (true) {
    settle();
    bool moved = false;
    bool all_there = true;
    for (int rank = 0; rank < world(); ++rank) {
      const Worker* w = worker(rank);
      if (w == nullptr) return false;
      if (w->held.last_applied >= step) continue;
      all_there = false;
      moved = advance(rank) || moved;
    }
    if (all_there) {
      settle();
      return true;
    }
    if (!moved) return false;
  }
}

void ControlledRun::run_to_end(int max_moves) {
  for (int i = 0; i < max_moves && state.phase != Phase::kFinished; ++i) {
    settle();
    if (state.phase == Phase::kFinished) return;
    bool moved = false;
    for (int rank = 0; rank < world(); ++rank) moved = advance(rank) || moved;
    if (!moved && !fire_timer()) {
      violate("nothing happens any more in phase " + std::string(to_string(state.phase)));
      return;
    }
  }
  if (state.phase != Phase::kFinished) violate("the run does not end");
}

// --- Faults

void ControlledRun::kill_worker(int rank) {
  const Seat& seat = state_seat(rank);
  Agent& a = agents_[seat.agent];
  const auto it = a.workers.find(seat.slot);
  if (!a.alive || it == a.workers.end()) return;
  const std::uint64_t incarnation = it->second->incarnation;
  a.workers.erase(it);
  emit(seat.agent, WorkerExited{seat.agent, seat.slot, incarnation, "killed by signal 9 (Killed)"});
}

void ControlledRun::kill_agent(std::uint32_t agent) {
  Agent& a = agents_[agent];
  if (!a.alive) return;
  if (a.watched && supervisor_up_)
    exits_.push_back({agent, a.incarnation, "its process killed by signal 9 (Killed)"});
  a = Agent{};
}

void ControlledRun::hang_worker(int rank) {
  if (Worker* w = worker(rank)) w->hung = true;
}

bool ControlledRun::stop_on_error(int rank) {
  Worker* w = worker(rank);
  if (w == nullptr || w->hung || w->engine == Engine::kIdle) return false;
  leave(*w);
  emit_from(*w, state_seat(rank).agent,
            RankStopped{static_cast<std::uint32_t>(rank), w->generation,
                        report_state(*w, std::numeric_limits<std::int64_t>::max()),
                        "connection closed by peer", 0});
  return true;
}

// --- What can be seen

bool ControlledRun::noted(const std::string& text) const {
  return std::any_of(commands_.begin(), commands_.end(), [&](const Command& c) {
    const Note* note = std::get_if<Note>(&c);
    return note != nullptr && note->text.find(text) != std::string::npos;
  });
}

std::string ControlledRun::notes() const {
  std::string text;
  for (const Note& n : all<Note>()) text += n.text + "\n";
  return text;
}

std::vector<std::uint64_t> ControlledRun::manifests() const {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, stored] : store_) ids.push_back(id);
  return ids;
}

const CheckpointInfo* ControlledRun::checkpoint_of(std::int64_t step) const {
  for (const CheckpointInfo& c : state.checkpoints) {
    if (c.step == step) return &c;
  }
  return nullptr;
}

std::pair<std::int64_t, std::int64_t> ControlledRun::positions(
    std::int64_t step, const std::vector<SkipWindow>& skips) const {
  const std::int64_t batch = options_.controller.global_batch_size;
  std::int64_t position = 0;
  std::int64_t trained = 0;
  std::int64_t begin = -1;
  while (true) {
    const bool skipped = std::any_of(skips.begin(), skips.end(), [&](const SkipWindow& w) {
      return position >= w.begin && position < w.end;
    });
    if (!skipped) {
      if (trained == (step - 1) * batch) begin = position;
      if (++trained == step * batch) return {begin, position + 1};
    }
    ++position;
  }
}

bool ControlledRun::poisoned(std::int64_t step, const std::vector<SkipWindow>& skips) const {
  const auto [begin, end] = positions(step, skips);
  return begin < options_.poisoned.end && options_.poisoned.begin < end;
}

std::uint64_t ControlledRun::next_weights(std::uint64_t weights, std::int64_t step,
                                          const std::vector<SkipWindow>& skips, int rank) const {
  const auto [begin, end] = positions(step, skips);
  return mix(weights, static_cast<std::uint64_t>(begin * 131 + end)) +
         (faulty_.contains(rank) ? 1 : 0);
}

std::uint64_t ControlledRun::expected_weights(int rank, std::int64_t step) const {
  std::uint64_t w = initial_weights(options_.controller.degrees, rank);
  for (std::int64_t s = 1; s <= step; ++s) {
    if (!poisoned(s, state.skip_windows)) w = next_weights(w, s, state.skip_windows, -1);
  }
  return w;
}

}  // namespace tenax::test
