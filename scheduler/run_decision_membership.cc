// Start, takeover, agents and workers.
#include <algorithm>
#include <utility>

#include "scheduler/checkpoint_decisions.h"
#include "scheduler/exit_code.h"
#include "scheduler/recovery_plan.h"
#include "scheduler/run_decision.h"

namespace tenax::scheduler {

void Decision::finish(int exit_code, std::string reason) {
  if (s_.phase == Phase::kFinished) return;
  s_.phase = Phase::kFinished;
  s_.exit_code = exit_code;
  s_.finish_reason = reason;
  s_.deadline.reset();
  issue(Finish{exit_code, std::move(reason)});
}

Seat* Decision::seat_of(std::uint32_t agent, std::uint32_t slot, std::uint64_t incarnation) {
  for (Seat& seat : s_.seats) {
    if (seat.agent == agent && seat.slot == slot) {
      return seat.incarnation == incarnation ? &seat : nullptr;
    }
  }
  return nullptr;
}

Seat* Decision::seat_of_rank(std::uint32_t rank, std::uint64_t worker) {
  for (Seat& seat : s_.seats) {
    if (worker != 0 ? seat.incarnation == worker : seat.rank == static_cast<int>(rank))
      return &seat;
  }
  return nullptr;
}

std::string Decision::name_of_seat(const Seat& seat) const {
  return seat.rank >= 0 ? fmt::format("rank {}", seat.rank)
                        : fmt::format("the spare on agent {}, slot {}", seat.agent, seat.slot);
}

bool Decision::plays(std::uint32_t agent) const {
  return std::any_of(s_.seats.begin(), s_.seats.end(),
                     [&](const Seat& s) { return s.agent == agent && s.rank >= 0; });
}

void Decision::on(const SupervisorStarted& e) {
  s_.term = e.term;
  s_.total_steps = e.total_steps;
  if (s_.seats.empty()) {
    first_start();
  } else {
    take_over(e);
  }
}

void Decision::first_start() {
  const int world = o_.degrees.world_size();
  s_.target = s_.degrees = o_.degrees;
  s_.agents.resize(o_.num_agents);
  for (int rank = 0; rank < world; ++rank) {
    add_seats(static_cast<std::uint32_t>(static_cast<std::int64_t>(rank) * o_.num_agents / world),
              1);
    s_.seats.back().rank = rank;
  }
  for (int i = 0; i < o_.spares; ++i) add_seats(static_cast<std::uint32_t>(i % o_.num_agents), 1);
  s_.branches.push_back({0, 0, 0});
  s_.generation = 1;
  s_.spikes = SpikeMonitor(o_.spikes).initial();
  note(Severity::kNotice, "run starts: {} ranks ({}), {} steps", world, layout_text(o_.degrees),
       s_.total_steps);
  note(Severity::kInfo, "layouts by the number of workers: {}",
       templates_text(layout_templates(o_.limits, s_.target)));
  note(Severity::kNotice, "recovery: {}", cost_of_a_lost_rank(o_));
  for (std::uint32_t agent = 0; agent < s_.agents.size(); ++agent) spawn_agent(agent);
}

void Decision::take_over(const SupervisorStarted& e) {
  s_.stop_requested = false;
  s_.stop_issued = false;
  s_.save_failures = 0;
  s_.exit_code = -1;
  s_.finish_reason.clear();
  s_.last_progress_generation = s_.generation;
  s_.last_progress_at = now_;
  reconcile_checkpoints(s_, e.manifests, commands_);
  for (const std::string& change : e.config_changes) {
    note(Severity::kNotice, "configuration changed from step {} on: {}", s_.counted_step + 1,
         change);
  }
  if (s_.target.dp == 0) s_.target = s_.degrees = o_.degrees;  // saved before runs had both
  s_.regroup.clear();
  if (e.agents_alive.empty()) forgive_agents();
  int alive = 0;
  int expected = 0;
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    AgentState& agent = s_.agents[id];
    if (agent.gone || agent.excluded_until) continue;
    ++expected;
    agent.up = false;
    agent.asked =
        std::find(e.agents_alive.begin(), e.agents_alive.end(), id) != e.agents_alive.end();
    alive += agent.asked ? 1 : 0;
  }
  note(Severity::kNotice,
       "supervisor of term {} takes over at step {}: {} of {} agents may still answer", e.term,
       s_.counted_step, alive, expected);
  // A command of this generation may not have reached everyone: then the workers cannot go on in
  // it.
  const bool may_go_on = s_.phase == Phase::kRunning && s_.next_command == 1;
  if (may_go_on && alive == expected) {
    s_.deadline = now_ + o_.takeover_wait;  // phase stays: the workers train on meanwhile
    return;
  }
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    AgentState& agent = s_.agents[id];
    if (agent.asked || agent.gone || agent.excluded_until) continue;
    for (Seat& seat : s_.seats) {
      if (seat.agent == id) seat.state = SeatState::kAbsent;
    }
    if (agent.joined || agent.draining) {
      agent.gone = true;
      note(Severity::kWarning, "agent {} did not outlive the supervisor", id);
    } else {
      spawn_agent(id);
    }
  }
  issue_replay();
  begin_gathering("the supervisor was restarted", kEvidenceDecision);
  if (alive > 0) s_.deadline = now_ + o_.takeover_wait;
}

void Decision::forgive_agents() {
  for (AgentState& agent : s_.agents) {
    if (agent.joined) {
      agent.gone = true;
    } else {
      agent.draining = agent.gone = false;
    }
    agent.excluded_until.reset();
  }
}

void Decision::finish_takeover() {
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    if (s_.agents[id].asked && !s_.agents[id].up) {
      s_.agents[id].asked = false;
      lose_agent(id, "did not answer the new supervisor");
    }
  }
}

void Decision::spawn_agent(std::uint32_t id) {
  AgentState& agent = s_.agents[id];
  agent.up = false;
  agent.asked = false;
  agent.incarnation = s_.next_incarnation++;
  agent.spawned_at = now_;
  issue(SpawnAgent{id, agent.incarnation});
}

void Decision::spawn_worker(Seat& seat) {
  seat.incarnation = s_.next_incarnation++;
  seat.state = SeatState::kSpawning;
  seat.spawn_at.reset();
  seat.spawned_at = now_;
  seat.held = {};
  seat.pid = 0;
  issue(SpawnWorker{seat.agent, seat.slot, seat.incarnation});
}

void Decision::restart_worker(Seat& seat) {
  AgentState& agent = s_.agents[seat.agent];
  const RestartDecision restart = next_restart(o_.worker_restarts, agent.worker_history, now_);
  ++seat.restarts;
  ++s_.restarts;
  if (restart.give_up) {
    exclude(seat.agent,
            fmt::format("workers of agent {} died {} times within {:.0f} s; the restart "
                        "strategy allows {}",
                        seat.agent, restart.within_period, to_seconds(o_.worker_restarts.period),
                        o_.worker_restarts.intensity));
    return;
  }
  if (restart.delay.count() == 0) {
    spawn_worker(seat);
  } else {
    seat.spawn_at = now_ + restart.delay;
  }
}

void Decision::on(const AgentJoined& e) {
  if (e.agent >= s_.agents.size() || e.incarnation != s_.agents[e.agent].incarnation) return;
  AgentState& agent = s_.agents[e.agent];
  if (agent.up) return;
  const bool answered = std::exchange(agent.asked, false);
  agent.up = true;
  agent.spawned_at.reset();
  agent.pid = e.pid;
  agent.host = e.host;
  note(Severity::kInfo, "agent {} joined from {} (pid {}){}", e.agent, e.host, e.pid,
       answered ? ", taken over with its workers" : "");
  bool all_as_known = true;
  for (Seat& seat : s_.seats) {
    if (seat.agent != e.agent || seat.retired) continue;
    const auto seen = std::find_if(e.workers.begin(), e.workers.end(), [&](const WorkerSeen& w) {
      return w.slot == seat.slot && w.incarnation == seat.incarnation;
    });
    if (seen == e.workers.end()) {
      if (answered && seat.state != SeatState::kAbsent && seat.rank >= 0) all_as_known = false;
      seat.state = SeatState::kAbsent;
      if (!agent.draining) spawn_worker(seat);
      continue;
    }
    seat.pid = seen->pid;
    if (!seen->up) {
      if (answered && seat.rank >= 0) all_as_known = false;
      seat.state = SeatState::kSpawning;
      seat.spawned_at = now_;
      continue;
    }
    if (seat.rank < 0 && s_.phase == Phase::kRunning) {  // a spare
      if (!ready(seat)) seat.state = SeatState::kFresh;
      continue;
    }
    if (seen->rank < 0) {
      seat.state = SeatState::kFresh;
      all_as_known = false;
    } else if (!seen->training || seen->generation != s_.generation) {
      seat.state = SeatState::kLeaving;  // the abort of begin_gathering makes it answer
      all_as_known = false;
    }
  }
  if (answered && s_.phase == Phase::kRunning) {
    if (!all_as_known) {
      begin_gathering("the workers found after the restart are not all in training",
                      kEvidenceDecision);
    } else if (std::all_of(s_.agents.begin(), s_.agents.end(), [](const AgentState& a) {
                 return a.up || a.gone || a.excluded_until;
               })) {
      s_.deadline.reset();
      note(Severity::kNotice, "all workers are still training in generation {}: nothing to do",
           s_.generation);
      if (s_.stop_requested) command_stop();
      consider_regroup();
    }
  } else if (answered) {
    issue(AbortGeneration{s_.generation, s_.counted_step, "the supervisor was restarted"});
  }
  try_start();
}

void Decision::lose_agent(std::uint32_t id, const std::string& evidence) {
  AgentState& agent = s_.agents[id];
  note(Severity::kWarning, "agent {} (pid {}) is lost: {}", id, agent.pid, evidence);
  issue(KillAgent{id, agent.incarnation, evidence});
  const bool matters = s_.phase == Phase::kGathering || (active() && plays(id));
  for (Seat& seat : s_.seats) {
    if (seat.agent == id) seat.state = SeatState::kAbsent;
  }
  agent.up = agent.asked = false;
  if (agent.joined || agent.draining) {
    agent.gone = true;
    agent.spawned_at.reset();
  } else {
    ++agent.restarts;
    ++s_.restarts;
    const RestartDecision restart = next_restart(o_.agent_restarts, agent.history, now_);
    if (restart.give_up) {
      exclude(id,
              fmt::format("agent {} died {} times within {:.0f} s; the restart strategy allows {}",
                          id, restart.within_period, to_seconds(o_.agent_restarts.period),
                          o_.agent_restarts.intensity));
      if (s_.phase == Phase::kFinished) return;
    } else {
      spawn_agent(id);
    }
  }
  if (matters) begin_gathering(fmt::format("agent {} is lost: {}", id, evidence), kEvidenceProcess);
}

void Decision::on(const AgentLost& e) {
  if (e.agent >= s_.agents.size() || e.incarnation != s_.agents[e.agent].incarnation) return;
  if (s_.agents[e.agent].gone) {
    s_.agents[e.agent].up = false;
    note(Severity::kInfo, "agent {} has left: {}", e.agent, e.evidence);
    return;
  }
  lose_agent(e.agent, e.evidence);
  try_start();
}

void Decision::end_late_starters() {
  for (std::uint32_t id = 0; id < s_.agents.size(); ++id) {
    AgentState& agent = s_.agents[id];
    if (agent.up || !agent.spawned_at || now_ < *agent.spawned_at + o_.form_timeout) continue;
    lose_agent(
        id, fmt::format("did not join within {:.1f} s of its start", to_seconds(o_.form_timeout)));
    if (s_.phase == Phase::kFinished) return;
  }
  for (Seat& seat : s_.seats) {
    if (seat.state != SeatState::kSpawning || !s_.agents[seat.agent].up || !seat.spawned_at ||
        now_ < *seat.spawned_at + o_.form_timeout) {
      continue;
    }
    seat.spawned_at = now_;
    note(Severity::kWarning, "the worker of {} did not come up within {:.1f} s and is killed",
         name_of_seat(seat), to_seconds(o_.form_timeout));
    issue(KillWorker{seat.agent, seat.slot, seat.incarnation, "did not come up"});
  }
}

void Decision::on(const WorkerUp& e) {
  Seat* seat = seat_of(e.agent, e.slot, e.incarnation);
  if (seat == nullptr || seat->state != SeatState::kSpawning) return;
  seat->state = SeatState::kFresh;
  seat->spawned_at.reset();
  seat->pid = e.pid;
  consider_regroup();
  try_start();
}

void Decision::on(const WorkerExited& e) {
  Seat* seat = seat_of(e.agent, e.slot, e.incarnation);
  if (seat == nullptr || seat->state == SeatState::kAbsent) return;
  bool played = seat->rank >= 0;
  seat->state = SeatState::kAbsent;
  if (seat->retired || s_.agents[e.agent].gone) return;
  const std::string name = name_of_seat(*seat);
  note(Severity::kWarning, "worker of {} (agent {}, slot {}, pid {}) is gone: {}", name, e.agent,
       e.slot, seat->pid, e.status);
  if (!s_.agents[e.agent].draining) restart_worker(*seat);
  if (s_.phase == Phase::kFinished) return;
  if (s_.agents[e.agent].excluded_until) played = played || plays(e.agent);  // all of it is lost
  const std::string death = fmt::format("{} died: {}", name, e.status);
  if (played) {
    // Killed because it hangs: what hung is the cause.
    const bool hung = s_.phase == Phase::kGathering && s_.culprit_strength == kEvidenceHang;
    if (!hung) blame(death, kEvidenceProcess);
    if (active()) begin_gathering(death, kEvidenceProcess);
  }
  try_start();
}

void Decision::on(const DeviceReported& e) {
  Seat* seat = seat_of(e.agent, e.slot, e.incarnation);
  if (seat == nullptr || seat->state == SeatState::kAbsent) return;
  seat->device_trouble = fmt::format("{}: {}", to_string(e.trouble), e.text);
  ++s_.device_troubles;
  const std::string name = name_of_seat(*seat);
  note(Severity::kWarning, "GPU of {} (agent {}, slot {}): {}", name, e.agent, e.slot,
       seat->device_trouble);
  if (!e.ends || seat->rank < 0) return;
  // Whatever the others say of its end is a consequence.
  const std::string reason = fmt::format("{} lost its GPU: {}", name, e.text);
  blame(reason, kEvidenceProcess);
  if (active()) begin_gathering(reason, kEvidenceProcess);
}

}  // namespace tenax::scheduler
