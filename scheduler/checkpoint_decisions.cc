#include "scheduler/checkpoint_decisions.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "scheduler/layout.h"
#include "scheduler/retention.h"
#include "scheduler/run_controller.h"

namespace tenax::scheduler {

namespace {

CheckpointInfo& find_or_create(RunState& state, const ShardWritten& shard) {
  for (CheckpointInfo& c : state.checkpoints) {
    if (c.id == shard.checkpoint_id) return c;
  }
  CheckpointInfo c;
  c.id = shard.checkpoint_id;
  c.branch = shard.branch;
  c.step = shard.step;
  c.generation = shard.generation;
  state.checkpoints.push_back(c);
  return state.checkpoints.back();
}

}  // namespace

std::vector<int> odd_replicas(const std::map<std::uint32_t, std::string>& digests,
                              const Degrees& degrees) {
  std::vector<int> odd;
  for (int rank = 0; rank < degrees.world_size(); ++rank) {
    const std::vector<int> group = data_parallel_group(degrees, rank);
    const std::string& mine = digests.at(rank);
    const auto agree = std::count_if(group.begin(), group.end(),
                                     [&](int other) { return digests.at(other) == mine; });
    if (agree == static_cast<std::ptrdiff_t>(group.size())) continue;
    if (2 * agree <= static_cast<std::ptrdiff_t>(group.size())) odd.push_back(rank);
  }
  return odd;
}

void record_shard(RunState& state, const ShardWritten& shard, std::vector<Command>& out) {
  CheckpointInfo& c = find_or_create(state, shard);
  if (c.committing || c.committed) return;
  c.shards[shard.rank] = shard.digest;
  c.bytes += shard.bytes;
  c.seconds = std::max(c.seconds, shard.seconds);
  if (static_cast<int>(c.shards.size()) < state.degrees.world_size()) return;
  if (const std::vector<int> odd = odd_replicas(c.shards, state.degrees); !odd.empty()) {
    const std::string reason = fmt::format(
        "replicas hold different bytes after step {}: rank {} differ(s) from its peers; a faulty "
        "device is suspect",
        c.step, fmt::join(odd, ", rank "));
    out.push_back(Note{Severity::kError, reason});
    out.push_back(DiscardCheckpoint{c.id, c.branch, c.step, reason});
    forget_checkpoint(state, shard.checkpoint_id);
  }
}

void commit_complete_checkpoints(RunState& state, const ControllerOptions& options,
                                 std::vector<Command>& out) {
  for (CheckpointInfo& c : state.checkpoints) {
    if (c.committing || c.committed || c.step > state.counted_step ||
        static_cast<int>(c.shards.size()) < state.degrees.world_size()) {
      continue;
    }
    c.committing = true;
    const SpikeMonitor monitor(options.spikes);
    c.sound = monitor.sound_after(state.spikes, c.step);
    c.guard = monitor.guard_after(state.spikes, c.step);
    std::int64_t position = 0;
    for (const StepReport& r : state.spikes.history) {
      if (r.step == c.step) position = r.position_end;
    }
    out.push_back(CommitCheckpoint{c.id, c.branch, c.step, position});
  }
}

void drop_unfinished_checkpoints(RunState& state, const std::string& reason,
                                 std::vector<Command>& out) {
  for (const CheckpointInfo& c : state.checkpoints) {
    if (!c.committed && !c.committing)
      out.push_back(DiscardCheckpoint{c.id, c.branch, c.step, reason});
  }
  std::erase_if(state.checkpoints,
                [](const CheckpointInfo& c) { return !c.committed && !c.committing; });
}

void reconcile_checkpoints(RunState& state, const std::vector<std::uint64_t>& manifests,
                           std::vector<Command>& out) {
  const auto exists = [&](std::uint64_t id) {
    return std::find(manifests.begin(), manifests.end(), id) != manifests.end();
  };
  std::vector<CheckpointInfo> kept;
  for (CheckpointInfo& c : state.checkpoints) {
    if (exists(c.id)) {
      c.committing = false;
      c.committed = true;
      c.shards.clear();
      if (!c.read_back) out.push_back(VerifyCheckpoint{c.id});
      kept.push_back(c);
    } else if (c.committed) {
      out.push_back(
          Note{Severity::kError,
               fmt::format("checkpoint {} of step {} is missing from the store", c.id, c.step)});
    } else {
      out.push_back(DiscardCheckpoint{c.id, c.branch, c.step, "the supervisor was restarted"});
    }
  }
  state.checkpoints = std::move(kept);
  for (const std::uint64_t id : manifests) {
    const bool known = std::any_of(state.checkpoints.begin(), state.checkpoints.end(),
                                   [&](const CheckpointInfo& c) { return c.id == id; });
    if (!known) out.push_back(DeleteCheckpoint{id, "its deletion was interrupted"});
  }
}

void mark_verified(RunState& state, const ControllerOptions& options, std::vector<Command>& out) {
  const bool calm = SpikeMonitor(options.spikes).sound(state.spikes);
  for (CheckpointInfo& c : state.checkpoints) {
    if (c.verified || !c.committed || !c.read_back || !c.sound || c.quarantined || !calm) continue;
    if (!on_ancestry(state, c.branch, c.step)) continue;
    const bool at_end = state.counted_step >= state.total_steps;
    if (state.counted_step < c.step + options.verify_patience && !at_end) continue;
    c.verified = true;
    out.push_back(
        Note{Severity::kInfo, fmt::format("checkpoint {} of step {} is verified", c.id, c.step)});
  }
}

void withdraw_after_onset(RunState& state, std::int64_t onset, std::vector<Command>& out) {
  for (CheckpointInfo& c : state.checkpoints) {
    if (c.step < onset || !on_ancestry(state, c.branch, c.step)) continue;
    if (c.verified) {
      out.push_back(Note{
          Severity::kNotice,
          fmt::format("checkpoint {} of step {} is no longer verified: an onset lies at step {}",
                      c.id, c.step, onset)});
    }
    c.verified = false;
    c.sound = false;
  }
}

void quarantine(RunState& state, std::uint64_t checkpoint_id, const std::string& reason,
                std::vector<Command>& out) {
  for (CheckpointInfo& c : state.checkpoints) {
    if (c.id != checkpoint_id || c.quarantined) continue;
    c.quarantined = true;
    c.verified = false;
    out.push_back(Note{Severity::kError, fmt::format("checkpoint {} of step {} is quarantined: {}",
                                                     c.id, c.step, reason)});
  }
}

void forget_checkpoint(RunState& state, std::uint64_t checkpoint_id) {
  std::erase_if(state.checkpoints, [&](const CheckpointInfo& c) { return c.id == checkpoint_id; });
}

void retire_checkpoints(RunState& state, const ControllerOptions& options,
                        const std::vector<std::uint64_t>& in_use, std::vector<Command>& out) {
  std::vector<RetentionCandidate> candidates;
  for (const CheckpointInfo& c : state.checkpoints) {
    if (!c.committed || c.step == 0) continue;
    candidates.push_back(
        {c.id, c.branch, c.step, c.verified, on_ancestry(state, c.branch, c.step), c.quarantined});
  }
  RetentionPolicy policy;
  policy.keep_last = options.keep_last;
  policy.keep_every = options.keep_every;
  for (const RetentionVerdict& v : choose_deletions(candidates, policy)) {
    if (std::find(in_use.begin(), in_use.end(), v.checkpoint_id) != in_use.end()) continue;
    out.push_back(DeleteCheckpoint{v.checkpoint_id, v.reason});
    forget_checkpoint(state, v.checkpoint_id);
  }
}

}  // namespace tenax::scheduler
