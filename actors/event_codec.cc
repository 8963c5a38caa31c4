#include "actors/event_codec.h"

#include <variant>

namespace tenax::actors {

std::optional<scheduler::Event> to_event(const wire::Message& m) {
  using scheduler::Event;
  if (const auto* b = std::get_if<wire::StepDone>(&m.body)) {
    return Event(scheduler::StepReported{m.generation, b->report});
  }
  if (const auto* b = std::get_if<wire::AgentHello>(&m.body)) {
    scheduler::AgentJoined e{m.agent, m.agent_incarnation, b->pid, b->host, b->num_slots, {}};
    for (const wire::WorkerInfo& w : b->workers) {
      e.workers.push_back({w.slot, w.incarnation, w.pid, w.rank, w.generation, w.training, w.up});
    }
    return Event(std::move(e));
  }
  if (const auto* b = std::get_if<wire::WorkerUp>(&m.body)) {
    return Event(scheduler::WorkerUp{m.agent, m.slot, m.worker_incarnation, b->pid});
  }
  if (const auto* b = std::get_if<wire::WorkerExited>(&m.body)) {
    return Event(
        scheduler::WorkerExited{m.agent, m.slot, m.worker_incarnation, b->status, b->log_tail});
  }
  if (const auto* b = std::get_if<wire::RankFormed>(&m.body)) {
    return Event(scheduler::RankFormed{b->rank, m.generation, b->step, b->source, b->seconds,
                                       m.worker_incarnation, b->restore_seconds, b->bytes,
                                       b->rejected});
  }
  if (const auto* b = std::get_if<wire::RankStopped>(&m.body)) {
    return Event(scheduler::RankStopped{static_cast<std::uint32_t>(b->rank), m.generation, b->state,
                                        b->reason, b->bad_checkpoint, m.worker_incarnation,
                                        b->flight});
  }
  if (const auto* b = std::get_if<wire::RankFinished>(&m.body)) {
    return Event(
        scheduler::RankFinished{b->rank, m.generation, b->step, b->cause, m.worker_incarnation});
  }
  if (const auto* b = std::get_if<wire::ShardWritten>(&m.body)) {
    return Event(scheduler::ShardWritten{b->rank, m.generation, b->branch, b->step,
                                         b->checkpoint_id, b->bytes, b->seconds, b->digest});
  }
  if (const auto* b = std::get_if<wire::ShardFailed>(&m.body)) {
    return Event(scheduler::ShardFailed{b->rank, m.generation, b->branch, b->step, b->checkpoint_id,
                                        b->error});
  }
  if (const auto* b = std::get_if<wire::Leaving>(&m.body)) {
    return Event(scheduler::DrainRequested{m.agent, "the agent itself: " + b->reason});
  }
  if (const auto* b = std::get_if<wire::ShardHash>(&m.body)) {
    return Event(scheduler::ShardHashed{b->rank, m.generation, b->branch, b->step, b->hash});
  }
  if (const auto* b = std::get_if<wire::DeviceReport>(&m.body)) {
    return Event(scheduler::DeviceReported{m.agent, m.slot, m.worker_incarnation, b->trouble,
                                           b->text, b->ends});
  }
  if (const auto* b = std::get_if<wire::JoinRequest>(&m.body)) {
    return Event(scheduler::AgentAsked{b->token, b->host, b->pid, b->num_slots});
  }
  return std::nullopt;
}

}  // namespace tenax::actors
