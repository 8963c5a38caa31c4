// Generations, snapshots and the store of a controlled run, and running it until it is quiet.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "scheduler/layout.h"
#include "scheduler/run_json.h"
#include "tests/support/controlled_run.h"
#include "tests/support/controlled_weights.h"

namespace tenax::test {

// --- Generations

ControlledRun::Worker* ControlledRun::worker(int seat) {
  Agent& a = agents_[place_of(seat).agent];
  const auto it = a.workers.find(place_of(seat).slot);
  return !a.alive || it == a.workers.end() ? nullptr : it->second.get();
}
const ControlledRun::Worker* ControlledRun::worker(int seat) const {
  return const_cast<ControlledRun*>(this)->worker(seat);
}
ControlledRun::Worker* ControlledRun::worker_at(const StartGeneration::Seat& place) {
  Agent& a = agents_[place.agent];
  const auto it = a.workers.find(place.slot);
  if (!a.alive || it == a.workers.end() || it->second->incarnation != place.incarnation)
    return nullptr;
  return it->second.get();
}
bool ControlledRun::alive(int seat) const { return worker(seat) != nullptr; }
bool ControlledRun::worker_busy(int seat) const {
  return alive(seat) && worker(seat)->engine != Engine::kIdle;
}
const RankState& ControlledRun::held(int seat) const { return worker(seat)->held; }
std::optional<std::uint64_t> ControlledRun::weights(int seat) const {
  if (!alive(seat) || !worker(seat)->held.has_weights) return std::nullopt;
  return digest(worker(seat)->weights);
}

Shard ControlledRun::stored_shard(const Stored& stored, const Degrees& degrees, int rank) const {
  Shard shard = initial_shard(num_layers(), degrees, rank);
  for (std::size_t i = 0; i < shard.layers.size(); ++i)
    shard.layers[i] = stored.layers.at(shard.first + static_cast<int>(i));
  return shard;
}

std::uint64_t ControlledRun::stored_weights(std::uint64_t checkpoint, int rank) const {
  return digest(stored_shard(store_.at(checkpoint), state.degrees, rank));
}

bool ControlledRun::advance(int seat) {
  Worker* w = worker(seat);
  if (w == nullptr || w->hung || w->engine == Engine::kIdle) return false;
  Generation& g = generations_.at(w->running);
  const std::uint32_t agent = place_of(seat).agent;
  const int p = g.progress[w->rank];
  const int slowest = *std::min_element(g.progress.begin(), g.progress.end());
  switch (w->engine) {
    case Engine::kForming:
      return slowest >= -1 && restore(*w, g, agent);
    case Engine::kWaitingForSlot:
      return try_snapshot(*w, agent);
    case Engine::kTraining:
      if (slowest < p) return false;
      return p % 2 == 0 ? compute_gradients(*w, g, p) : take_verdict(*w, g, p, agent);
    case Engine::kIdle:
      break;
  }
  return false;
}

bool ControlledRun::restore(Worker& w, Generation& g, std::uint32_t agent) {
  const Plan& plan = g.plan;
  const int ranks = plan.degrees.world_size();
  if (g.sources.empty()) {
    for (int rank = 0; rank < ranks; ++rank) {
      const Worker* o = worker_at(g.seats[rank]);
      if (o == nullptr || o->hung || o->engine != Engine::kForming || o->running != w.running)
        return false;
    }
    // All ranks have met: what each one reads or is sent is settled now.
    const auto own = [&](int rank) -> Shard {
      const Worker* o = worker_at(g.seats[rank]);
      if (o->held.last_applied == plan.step) return o->weights;
      return std::isnan(plan.half_step.loss)
                 ? o->weights
                 : next_weights(o->weights, plan.step, plan.skip_windows, rank);
    };
    for (int rank = 0; rank < ranks; ++rank) {
      const RankSource& s = plan.sources[rank];
      const auto stored = store_.find(plan.checkpoint_id);
      g.sources.push_back(s.kind == SourceKind::kMemory ? own(rank)
                          : s.kind == SourceKind::kPeer ? own(s.peer)
                          : s.kind == SourceKind::kInitial || stored == store_.end()
                              ? initial_shard(num_layers(), plan.degrees, rank)
                              : stored_shard(stored->second, plan.degrees, rank));
    }
  }
  const SourceKind kind = plan.sources[w.rank].kind;
  if (kind == SourceKind::kCheckpoint &&
      (!store_.contains(plan.checkpoint_id) || store_.at(plan.checkpoint_id).corrupt)) {
    w.held.has_weights = false;
    leave(w);
    emit_from(w, agent,
              RankStopped{static_cast<std::uint32_t>(w.rank), w.generation, report_state(w, -1),
                          "the checkpoint cannot be read", plan.checkpoint_id, w.incarnation});
    return true;
  }
  if (kind == SourceKind::kMemory && plan.has_half_step && w.held.last_applied < plan.step) {
    w.reports.push_back(plan.half_step);
  }
  if (kind != SourceKind::kMemory) w.reports.clear();
  w.weights = g.sources[w.rank];
  if (w.weights.first != initial_shard(num_layers(), plan.degrees, w.rank).first ||
      w.weights.layers.size() != initial_shard(num_layers(), plan.degrees, w.rank).layers.size()) {
    violate("a rank was given another stage's weights");
  }
  w.held.has_weights = true;
  w.held.branch = plan.branch;
  w.held.rank = w.rank;
  w.held.degrees = plan.degrees;
  w.held.last_applied = plan.step;
  w.held.gradients_ready = 0;
  w.held.verdict_known = false;
  w.engine = Engine::kTraining;
  w.training_seen = true;
  g.progress[w.rank] = static_cast<int>(2 * plan.step);
  emit_from(w, agent,
            RankFormed{static_cast<std::uint32_t>(w.rank), plan.generation, plan.step, "", 0.1,
                       w.incarnation});
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

bool ControlledRun::take_verdict(Worker& w, Generation& g, int p, std::uint32_t agent) {
  const std::int64_t step = p / 2 + 1;
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
  after_step(w, g, step, agreed, agent);
  return true;
}

void ControlledRun::after_step(Worker& w, Generation& g, std::int64_t done,
                               const Contribution& agreed, std::uint32_t agent) {
  bool stop = false;
  for (; w.obeyed < agreed.command; ++w.obeyed) {
    const WorkerCommandKind kind = w.commands.at(w.obeyed + 1);
    stop = stop || kind == WorkerCommandKind::kStop;
    w.regroup = w.regroup || kind == WorkerCommandKind::kRegroup;
  }
  const bool due =
      options_.save_interval > 0 && done % options_.save_interval == 0 && agreed.slot_free;
  w.leave_after_save = stop || done >= g.plan.total_steps;
  if (due || w.leave_after_save) {
    w.engine = Engine::kWaitingForSlot;
    try_snapshot(w, agent);
  } else if (w.regroup) {
    finish(w, agent, FinishCause::kRegrouped);
  }
}

bool ControlledRun::try_snapshot(Worker& w, std::uint32_t agent) {
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
    finish(w, agent,
           w.held.last_applied >= plan.total_steps ? FinishCause::kDone : FinishCause::kStopped);
  } else if (w.regroup) {
    finish(w, agent, FinishCause::kRegrouped);
  }
  return true;
}

void ControlledRun::finish(Worker& w, std::uint32_t agent, FinishCause cause) {
  leave(w);
  emit_from(w, agent,
            RankFinished{static_cast<std::uint32_t>(w.rank), w.running, w.held.last_applied, cause,
                         w.incarnation});
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
                           job.step, id, 100, 0.1, std::to_string(digest(job.weights))});
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
    for (const auto& [rank, job] : staged_[commit->checkpoint_id]) {
      for (std::size_t i = 0; i < job.weights.layers.size(); ++i)
        stored.layers[job.weights.first + static_cast<int>(i)] = job.weights.layers[i];
    }
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
    for (int seat = 0; seat < num_seats(); ++seat) {
      moved = boot(seat) || moved;
      while (deliver_from_worker(seat)) moved = true;
      Worker* w = worker(seat);
      if (w != nullptr && (w->engine == Engine::kForming || w->engine == Engine::kWaitingForSlot))
        moved = advance(seat) || moved;
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
    for (int seat = 0; seat < num_seats(); ++seat) {
      if (place_of(seat).rank < 0) continue;
      const Worker* w = worker(seat);
      if (w == nullptr) return false;
      const bool there = w->held.gradients_ready >= step;
      all_there = all_there && there;
      if (!there) moved = advance(seat) || moved;
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
    for (int seat = 0; seat < num_seats(); ++seat) {
      if (place_of(seat).rank < 0) continue;
      const Worker* w = worker(seat);
      if (w == nullptr) return false;
      if (w->held.last_applied >= step) continue;
      all_there = false;
      moved = advance(seat) || moved;
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
    for (int seat = 0; seat < num_seats(); ++seat) moved = advance(seat) || moved;
    if (!moved && !fire_timer()) {
      violate("nothing happens any more in phase " + std::string(to_string(state.phase)));
      return;
    }
  }
  if (state.phase != Phase::kFinished) violate("the run does not end");
}

// --- Faults

void ControlledRun::kill_worker(int index) {
  const Seat& seat = place_of(index);
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

void ControlledRun::hang_worker(int seat) {
  if (Worker* w = worker(seat)) w->hung = true;
}

void ControlledRun::join_agent(std::uint32_t num_slots) {
  if (!supervisor_up_) return;
  feed(AgentAsked{fmt::format("asker {}", ++num_askers_), "another host", 5000, num_slots});
}

bool ControlledRun::stop_on_error(int seat) {
  Worker* w = worker(seat);
  if (w == nullptr || w->hung || w->engine == Engine::kIdle) return false;
  leave(*w);
  emit_from(*w, place_of(seat).agent,
            RankStopped{static_cast<std::uint32_t>(w->rank), w->generation,
                        report_state(*w, std::numeric_limits<std::int64_t>::max()),
                        "connection closed by peer", 0, w->incarnation});
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

Shard ControlledRun::next_weights(Shard weights, std::int64_t step,
                                  const std::vector<SkipWindow>& skips, int rank) const {
  const auto [begin, end] = positions(step, skips);
  for (std::uint64_t& layer : weights.layers) {
    layer = mix(layer, static_cast<std::uint64_t>(begin * 131 + end)) +
            (faulty_.contains(rank) ? 1 : 0);
  }
  return weights;
}

std::uint64_t ControlledRun::expected_weights(int rank, std::int64_t step) const {
  Shard w = initial_shard(num_layers(), state.degrees, rank);
  for (std::int64_t s = 1; s <= step; ++s) {
    if (!poisoned(s, state.skip_windows)) w = next_weights(w, s, state.skip_windows, -1);
  }
  return digest(w);
}

}  // namespace tenax::test
