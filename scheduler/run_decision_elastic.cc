// Fewer and more workers: exclusion, agents that join, drain, scale, and the change of layout at a
// step boundary.
#include "scheduler/run_decision_elastic.h"

#include <algorithm>

#include "scheduler/exit_code.h"
#include "scheduler/layout_templates.h"
#include "scheduler/rank_assignment.h"
#include "scheduler/run_decision.h"

namespace tenax::scheduler {

namespace {

constexpr std::uint32_t kMaxSlots = 1024;  ///< workers of one agent
constexpr int kMaxDoublings = 6;           ///< of the exclusion period

bool wanted_seat(const RunState& state, const Seat& seat) {
  return !seat.retired && usable(state.agents[seat.agent]);
}

int workers_without(const RunState& state, std::uint32_t agent) {
  return static_cast<int>(std::count_if(
      state.seats.begin(), state.seats.end(),
      [&](const Seat& seat) { return seat.agent != agent && wanted_seat(state, seat); }));
}

}  // namespace

std::string refusal_of_drain(const RunState& state, const ControllerOptions& options,
                             std::uint32_t agent) {
  if (agent >= state.agents.size() || state.agents[agent].gone)
    return fmt::format("the run has no agent {}", agent);
  if (state.agents[agent].draining) return fmt::format("agent {} is being drained already", agent);
  const int left = workers_without(state, agent);
  if (!best_layout(options.limits, state.target, left)) {
    return fmt::format(
        "without agent {} the run has {} workers, too few for any layout; stop it "
        "(tenax stop) or let another agent join first",
        agent, left);
  }
  return {};
}

std::string refusal_of_scale(const RunState& state, const ControllerOptions& options,
                             const Degrees& target) {
  const LayoutLimits& limits = options.limits;
  if (target.dp < 1 || target.tp < 1 || target.pp < 1 || target.world_size() < limits.min_workers)
    return fmt::format("{} has fewer workers than the {} that the run needs", layout_text(target),
                       std::max(1, limits.min_workers));
  if (target.tp != state.target.tp) return "the tensor-parallel degree of a run cannot change";
  if (limits.max_data_parallel > 0 && target.dp > limits.max_data_parallel)
    return fmt::format("a step has {} microbatches, too few for {} replicas",
                       limits.max_data_parallel, target.dp);
  if (limits.max_stages > 0 && target.pp > limits.max_stages)
    return fmt::format("the model has {} layers, too few for {} stages", limits.max_stages,
                       target.pp);
  if (target.pp < limits.min_stages)
    return fmt::format("the run needs at least {} stages", limits.min_stages);
  const bool can_add = std::any_of(state.agents.begin(), state.agents.end(),
                                   [](const AgentState& a) { return usable(a) && !a.joined; });
  if (!can_add && target.world_size() > workers_without(state, UINT32_MAX))
    return "more workers need an agent to run them: let one join (tenax agent --join)";
  return {};
}

std::optional<Degrees> scaled_target(const RunState& state, const ControllerOptions& options,
                                     int workers) {
  Degrees wide = state.target;
  wide.dp = std::max(1, workers);
  return best_layout(options.limits, wide, workers);
}

std::optional<Degrees> Decision::layout_for(int workers) const {
  return best_layout(o_.limits, s_.target, workers);
}

int Decision::count_wanted_without(std::uint32_t agent) const { return workers_without(s_, agent); }

int Decision::count_wanted() const { return workers_without(s_, UINT32_MAX); }

void Decision::add_seats(std::uint32_t agent, int count) {
  std::uint32_t slot = 0;
  for (const Seat& seat : s_.seats) {
    if (seat.agent == agent) slot = std::max(slot, seat.slot + 1);
  }
  for (int i = 0; i < count; ++i) {
    Seat seat;
    seat.agent = agent;
    seat.slot = slot++;
    s_.seats.push_back(seat);
  }
}

void Decision::exclude(std::uint32_t id, const std::string& reason) {
  AgentState& agent = s_.agents[id];
  if (agent.up) issue(KillAgent{id, agent.incarnation, reason});
  for (Seat& seat : s_.seats) {
    if (seat.agent != id) continue;
    seat.state = SeatState::kAbsent;
    seat.spawn_at.reset();
  }
  agent.up = agent.asked = false;
  agent.incarnation = 0;  // nothing that it still says counts
  agent.pid = 0;
  agent.spawned_at.reset();
  agent.history = {};
  agent.worker_history = {};
  const Duration period =
      Duration(o_.exclusion_period.count() << std::min(agent.exclusions, kMaxDoublings));
  ++agent.exclusions;
  agent.excluded_until = now_ + period;
  revive_retired(s_.target.world_size() + o_.spares - count_wanted());
  const int left = count_wanted();
  if (!layout_for(left)) {
    finish(kExitGaveUp, reason);
    return;
  }
  note(Severity::kWarning, "agent {} is excluded for {:.0f} s: {}; {} workers are left", id,
       to_seconds(period), reason, left);
}

void Decision::readmit_excluded() {
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    AgentState& agent = s_.agents[id];
    if (!agent.excluded_until || now_ < *agent.excluded_until) continue;
    agent.excluded_until.reset();
    if (agent.joined) {
      agent.gone = true;
      note(Severity::kNotice, "the exclusion of agent {} is over: its host may join again", id);
    } else {
      note(Severity::kNotice, "the exclusion of agent {} is over: it is started again", id);
      spawn_agent(id);
    }
  }
}

void Decision::consider_regroup() {
  if (s_.phase != Phase::kRunning || s_.deadline || s_.stop_requested || !s_.regroup.empty())
    return;
  int present = 0;
  bool coming = false;
  bool leaving = false;
  std::vector<bool> stays(s_.seats.size(), false);
  for (std::size_t i = 0; i < s_.seats.size(); ++i) {
    const Seat& seat = s_.seats[i];
    if (seat.rank >= 0 && seat.state != SeatState::kTraining) return;  // the run is at its end
    if (!wanted(seat)) {
      leaving = leaving || seat.rank >= 0;
    } else if (seat.state == SeatState::kTraining || ready(seat)) {
      ++present;
      stays[i] = true;
    } else {
      coming = true;
    }
  }
  if (coming && !leaving) return;  // one change of layout for all that come
  const std::optional<Degrees> next = layout_for(present);
  if (!next || (*next == s_.degrees && !leaving)) return;
  const bool in_memory = memory_suffices(s_, *next, stays, o_.zero);
  s_.regroup = *next == s_.degrees ? std::string("other workers take over")
                                   : fmt::format("{} workers are there", present);
  note(Severity::kNotice, "{} instead of {} after this step{}: {}", layout_text(*next),
       layout_text(s_.degrees), in_memory ? "" : ", from a checkpoint of it", s_.regroup);
  issue(IssueCommand{
      {s_.next_command++, in_memory ? WorkerCommandKind::kRegroup : WorkerCommandKind::kStop}});
}

void Decision::release_drained() {
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    AgentState& agent = s_.agents[id];
    if (!agent.draining || agent.gone || plays(id)) continue;
    agent.gone = true;
    agent.spawned_at.reset();
    for (Seat& seat : s_.seats) {
      if (seat.agent == id) seat.state = SeatState::kAbsent;
    }
    note(Severity::kNotice, "agent {} is drained", id);
    issue(ReleaseAgent{id, agent.incarnation, "drained"});
  }
}

void Decision::retire_surplus() {
  if (!s_.retire_surplus) return;
  s_.retire_surplus = false;
  int surplus = count_wanted() - s_.target.world_size() - o_.spares;
  for (auto seat = s_.seats.rbegin(); seat != s_.seats.rend() && surplus > 0; ++seat) {
    if (seat->rank >= 0 || !wanted(*seat)) continue;
    seat->retired = true;
    --surplus;
    if (seat->state != SeatState::kAbsent)
      issue(KillWorker{seat->agent, seat->slot, seat->incarnation, "the run was scaled down"});
    seat->state = SeatState::kAbsent;
    seat->spawn_at.reset();
  }
}

void Decision::on(const AgentAsked& e) {
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    const AgentState& agent = s_.agents[id];
    if (agent.token == e.token && !agent.gone && agent.incarnation != 0) {
      issue(AdmitAgent{id, agent.incarnation, e.token, ""});
      return;
    }
  }
  std::string refusal;
  if (e.token.empty() || e.num_slots < 1 || e.num_slots > kMaxSlots)
    refusal = fmt::format("an agent has 1 to {} workers, not {}", kMaxSlots, e.num_slots);
  for (const AgentState& agent : s_.agents) {
    if (agent.joined && agent.excluded_until && agent.host == e.host)
      refusal = fmt::format("host {} failed too often and is excluded for {:.0f} s more", e.host,
                            to_seconds(*agent.excluded_until - now_));
  }
  if (!refusal.empty()) {
    note(Severity::kWarning, "an agent on {} may not join: {}", e.host, refusal);
    issue(AdmitAgent{0, 0, e.token, refusal});
    return;
  }
  const auto id = static_cast<std::uint32_t>(s_.agents.size());
  AgentState& agent = s_.agents.emplace_back();
  agent.joined = true;
  agent.token = e.token;
  agent.host = e.host;
  agent.pid = e.pid;
  agent.incarnation = s_.next_incarnation++;
  agent.spawned_at = now_;
  add_seats(id, static_cast<int>(e.num_slots));
  Degrees grown = s_.target;
  grown.dp = std::max(grown.dp, (count_wanted() - o_.spares) / (grown.tp * grown.pp));
  if (o_.limits.max_data_parallel > 0) grown.dp = std::min(grown.dp, o_.limits.max_data_parallel);
  s_.target = grown;
  note(Severity::kNotice, "agent {} joins from {} (pid {}) with {} worker{}", id, e.host, e.pid,
       e.num_slots, e.num_slots == 1 ? "" : "s");
  issue(AdmitAgent{id, s_.agents[id].incarnation, e.token, ""});
}

void Decision::on(const DrainRequested& e) {
  if (const std::string refusal = refusal_of_drain(s_, o_, e.agent); !refusal.empty()) {
    note(Severity::kWarning, "{} wanted to drain agent {}: {}", e.by, e.agent, refusal);
    return;
  }
  s_.agents[e.agent].draining = true;
  note(Severity::kNotice, "agent {} is to be drained, says {}", e.agent, e.by);
  if (s_.agents[e.agent].excluded_until) s_.agents[e.agent].gone = true;
  release_drained();
  consider_regroup();
  try_start();
}

void Decision::on(const ScaleRequested& e) {
  if (const std::string refusal = refusal_of_scale(s_, o_, e.target); !refusal.empty()) {
    note(Severity::kWarning, "{} wanted {}: {}", e.by, layout_text(e.target), refusal);
    return;
  }
  s_.target = e.target;
  s_.retire_surplus = true;
  note(Severity::kNotice, "{} wants {}; layouts by the number of workers: {}", e.by,
       layout_text(e.target), templates_text(layout_templates(o_.limits, s_.target)));
  start_missing_workers(s_.target.world_size() + o_.spares - count_wanted());
  consider_regroup();
  if (s_.degrees == s_.target) retire_surplus();
  try_start();
}

int Decision::revive_retired(int missing) {
  for (Seat& seat : s_.seats) {
    if (missing <= 0) break;
    if (!seat.retired || !usable(s_.agents[seat.agent])) continue;
    seat.retired = false;
    --missing;
    if (s_.agents[seat.agent].up) spawn_worker(seat);  // else when its agent joins
  }
  return missing;
}

void Decision::start_missing_workers(int missing) {
  missing = revive_retired(missing);
  while (missing > 0) {
    // The agent of ours with the fewest workers.
    std::optional<std::uint32_t> least;
    std::ptrdiff_t fewest = 0;
    for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
      if (!usable(s_.agents[id]) || s_.agents[id].joined) continue;
      const auto workers = std::count_if(s_.seats.begin(), s_.seats.end(), [&](const Seat& s) {
        return s.agent == id && !s.retired;
      });
      if (!least || workers < fewest) {
        least = id;
        fewest = workers;
      }
    }
    if (!least) return;
    add_seats(*least, 1);
    --missing;
    if (s_.agents[*least].up) spawn_worker(s_.seats.back());
  }
}

}  // namespace tenax::scheduler
