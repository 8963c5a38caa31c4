// How a rank of a new generation takes its place: from its own memory, the seed, a peer or a
// checkpoint, as the plan says. A part of TrainLoop.
#include <fmt/format.h>

#include <utility>

#include "actors/train_loop.h"

namespace tenax::actors {

Status TrainLoop::restore(const Plan& plan, int rank, compute::Communicator& comm,
                          RestoreSource& source) {
  const RankSource mine = plan.sources[static_cast<std::size_t>(rank)];
  const std::uint64_t bytes = payload_.bytes;
  if (mine.kind != SourceKind::kMemory) {
    // Half-overwritten weights are nobody's source if this is broken off.
    MutexLock lock(state_mutex_);
    held_.has_weights = false;
  }
  if (mine.kind != SourceKind::kMemory) faults_.weights_replaced();
  switch (mine.kind) {
    case SourceKind::kMemory: {
      std::int64_t last = 0;
      {
        MutexLock lock(state_mutex_);
        last = held_.last_applied;
      }
      source.served("memory", bytes, "from its own memory");
      if (finish_half_step(plan)) {
        source.text += ", the half-done step finished";
      } else if (last != plan.step) {
        return make_error(
            ErrorCode::kInternal,
            fmt::format("rank {} holds step {}, the plan says {}", rank, last, plan.step));
      }
      break;
    }
    case SourceKind::kInitial:
      engine_->initialise(static_cast<std::uint64_t>(config_.run.seed));
      source.served("seed", bytes, "computed from the seed");
      break;
    case SourceKind::kCheckpoint:
      TENAX_RETURN_IF_ERROR(restore_checkpoint(plan, source));
      break;
    case SourceKind::kPeer:
      break;
  }
  for (int other = 0; other < plan.degrees.world_size(); ++other) {
    const RankSource& s = plan.sources[static_cast<std::size_t>(other)];
    if (s.kind != SourceKind::kPeer) continue;
    if (other == rank) {
      TENAX_RETURN_IF_ERROR(engine_->recv_state(comm, s.peer));
      source.served("peer", bytes, fmt::format("from the memory of rank {}", s.peer));
    } else if (s.peer == rank) {
      TENAX_RETURN_IF_ERROR(engine_->send_state(comm, other));
    }
  }
  // A replica may have stopped between its own update and the others' weights.
  TENAX_RETURN_IF_ERROR(engine_->share_weights(comm));
  guard_ = plan.guard;
  MutexLock lock(state_mutex_);
  if (mine.kind != SourceKind::kMemory) reports_.clear();
  held_.has_weights = true;
  held_.rank = rank;
  held_.degrees = plan.degrees;
  held_.branch = plan.branch;
  held_.last_applied = plan.step;
  held_.gradients_ready = 0;
  held_.verdict_known = false;
  return {};
}

bool TrainLoop::finish_half_step(const Plan& plan) {
  {
    MutexLock lock(state_mutex_);
    if (!plan.has_half_step || held_.last_applied + 1 != plan.step) return false;
  }
  apply(plan.half_step);
  return true;
}

Status TrainLoop::restore_checkpoint(const Plan& plan, RestoreSource& source) {
  CheckpointRestoreOptions from;
  from.directory = options_.directory;
  from.run_id = options_.run_id;
  from.agent = options_.agent;
  from.slot = options_.slot;
  from.incarnation = options_.incarnation;
  from.num_agents = static_cast<std::uint32_t>(config_.layout.agents);
  from.has_buddy = config_.checkpoint.buddy_copies > 0;
  from.buddy_timeout = from_seconds(2 * config_.run.time_scale);
  from.checkpoint_id = plan.checkpoint_id;
  from.branch = plan.checkpoint_branch;
  from.step = plan.step;
  TENAX_TRY(const compute::Engine::HostState state, engine_->host_state());
  const Status restored = restore_from_checkpoint(from, payload_.table, state.parts, source);
  if (!restored && (restored.error().code == ErrorCode::kDataLoss ||
                    restored.error().code == ErrorCode::kNotFound ||
                    restored.error().code == ErrorCode::kUnsupported)) {
    bad_checkpoint_ = plan.checkpoint_id;
  }
  return restored ? engine_->store(state) : restored;
}

}  // namespace tenax::actors
