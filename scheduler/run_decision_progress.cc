// Steps, checkpoints, the end.
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "scheduler/checkpoint_decisions.h"
#include "scheduler/exit_code.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_decision.h"
#include "scheduler/space_forecast.h"

namespace tenax::scheduler {

void Decision::on(const StepReported& e) {
  if (e.generation != s_.generation || !active() || e.report.branch != s_.branch) return;
  count(e.report);
}

void Decision::note_progress(const StepReport& report) {
  s_.last_progress_at = now_;
  if (s_.phase != Phase::kRunning) return;
  if (s_.last_report_at) {
    const Section section =
        section_of_next_step(o_.watch, report.step - 1, s_.total_steps, s_.first_of_generation);
    observe(s_.watch, section, std::max(to_seconds(now_ - *s_.last_report_at), report.seconds));
  }
  s_.last_report_at = now_;
  s_.first_of_generation = false;
  s_.newest_report_step = std::max(s_.newest_report_step, report.step);
}

void Decision::count(const StepReport& report) {
  if (report.step <= s_.counted_step) {
    compare_replay(report);
    if (active()) note_progress(report);
    return;
  }
  if (report.step != s_.counted_step + 1) {
    note(Severity::kError,
         "report of step {} came after that of step {}; waiting for the ones between", report.step,
         s_.counted_step);
    return;
  }
  note_progress(report);
  s_.counted_step = report.step;
  s_.last_progress_generation = s_.generation;
  s_.save_failures = 0;  // what failed before was not the last save
  const SpikeDecision spike =
      SpikeMonitor(o_.spikes).observe(s_.spikes, report, o_.global_batch_size, s_.total_steps);
  tell_guard(report);
  for (const SpikeEvent& e : spike.events) {
    const bool bad = e.action != SpikeAction::kNone;
    note(bad ? Severity::kWarning : Severity::kInfo, "step {}: {}: {}", e.step,
         to_string(e.verdict), e.reason);
  }
  if (spike.stop) {
    finish(kExitDiverged, spike.reason);
    return;
  }
  if (spike.roll_back) {
    keep_samples(spike.onset, spike.step);
    if (!start_replay(PendingReplay::Cause::kSpike, spike)) roll_back(spike);
    return;
  }
  if (spike.load_older) {
    load_older(spike.reason);
    return;
  }
  s_.spikes.ladder.restore_failures = 0;
  if (spike.replay && start_replay(PendingReplay::Cause::kReports, spike)) return;
  mark_verified(s_, o_, commands_);
  commit_complete_checkpoints(s_, o_, commands_);
}

void Decision::on(const ShardWritten& e) {
  if (e.generation != s_.generation || e.branch != s_.branch || !active() ||
      static_cast<int>(e.rank) >= s_.degrees.world_size()) {
    return;
  }
  if (e.checkpoint_id == s_.failed_checkpoint) {
    // Its rank sealed the snapshot after the others were told to give it up.
    issue(DiscardCheckpoint{e.checkpoint_id, e.branch, e.step, "another rank's share failed"});
    return;
  }
  const std::size_t before = commands_.size();
  record_shard(s_, e, commands_);
  if (commands_.size() > before) {  // discarded: the last rank's share came, and they differ
    replicas_differ(e.step, std::get<DiscardCheckpoint>(commands_.back()).reason);
    return;
  }
  commit_complete_checkpoints(s_, o_, commands_);
}

void Decision::on(const ShardHashed& e) {
  if (e.generation != s_.generation || e.branch != s_.branch || !active() ||
      static_cast<int>(e.rank) >= s_.degrees.world_size() || e.step < s_.hashes_step) {
    return;
  }
  if (e.step > s_.hashes_step) {
    s_.hashes_step = e.step;
    s_.hashes.clear();
  }
  s_.hashes[e.rank] = e.hash;
  if (static_cast<int>(s_.hashes.size()) < s_.degrees.world_size()) return;
  const std::vector<int> odd = odd_replicas(s_.hashes, s_.degrees);
  s_.hashes.clear();
  if (odd.empty()) return;
  // With as many against as for nobody can say who is wrong.
  const bool known = 2 * static_cast<int>(odd.size()) < s_.degrees.world_size();
  const std::string reason =
      fmt::format("after step {} rank {} hold{} other bits than {}", e.step,
                  fmt::join(odd, ", rank "), odd.size() == 1 ? "s" : "",
                  known ? (odd.size() == 1 ? "its replicas" : "their replicas") : "each other");
  note(Severity::kError, "{}: a device computes wrong; all go back to a checkpoint", reason);
  // Every replica has taken the odd one's gradients: nobody's memory is right.
  s_.distrust_memory = true;
  begin_gathering(reason, kEvidenceDecision);
  for (const int rank : odd) {
    const Seat* seat = seat_of_rank(static_cast<std::uint32_t>(rank), 0);
    if (!known || seat == nullptr || !wanted(*seat)) continue;
    if (layout_for(count_wanted_without(seat->agent))) {
      exclude(seat->agent, reason);
    } else {
      issue(KillWorker{seat->agent, seat->slot, seat->incarnation, reason});
    }
  }
  try_start();
}

void Decision::on(const PaceChanged& e) {
  if (e.generation != s_.generation) return;
  const Seat* seat = seat_of_rank(e.rank, 0);
  if (seat == nullptr) return;
  if (e.straggles) {
    note(Severity::kWarning, "rank {} (agent {}, slot {}) holds the others up, score {:.2f}: {}",
         e.rank, seat->agent, seat->slot, e.score, e.text);
  } else {
    note(Severity::kInfo, "rank {} keeps pace again, score {:.2f}: {}", e.rank, e.score, e.text);
  }
}

void Decision::save_failed(std::int64_t step, const std::string& error) {
  ++s_.save_failures;
  s_.failed_step = step;
  s_.save_error = error;
  note(Severity::kError, "a checkpoint could not be saved; training goes on: {}", error);
  if (s_.phase == Phase::kFinishing) save_last_again();
}

void Decision::save_last_again() {
  if (s_.save_failures >= o_.max_save_failures) {
    const CheckpointInfo* last = newest_checkpoint(s_, s_.counted_step);
    finish(
        kExitStore,
        fmt::format(
            "the last checkpoint could not be saved in {} tries ({}); the newest one is of step {}",
            s_.save_failures, s_.save_error, last != nullptr ? last->step : 0));
    return;
  }
  begin_gathering("the last checkpoint is written again", kEvidenceDecision);
}

void Decision::on(const ShardFailed& e) {
  if (e.generation != s_.generation) return;
  issue(DiscardCheckpoint{e.checkpoint_id, e.branch, e.step, e.error});
  forget_checkpoint(s_, e.checkpoint_id);
  if (std::exchange(s_.failed_checkpoint, e.checkpoint_id) == e.checkpoint_id) return;
  save_failed(e.step, fmt::format("rank {}, step {}: {}", e.rank, e.step, e.error));
}

void Decision::on(const CommitEnded& e) {
  const auto it = std::find_if(s_.checkpoints.begin(), s_.checkpoints.end(),
                               [&](const CheckpointInfo& c) { return c.id == e.checkpoint_id; });
  if (it == s_.checkpoints.end()) return;
  if (!e.ok) {
    issue(DiscardCheckpoint{it->id, it->branch, it->step, e.error});
    const std::int64_t step = it->step;
    forget_checkpoint(s_, e.checkpoint_id);
    save_failed(step, fmt::format("step {}: {}", step, e.error));
    return;
  }
  it->committing = false;
  it->committed = true;
  it->bytes = e.bytes;
  it->shards.clear();
  s_.save_failures = 0;
  note(Severity::kInfo, "checkpoint {} of step {} (branch {}) is committed: {:.1f} MB", it->id,
       it->step, it->branch, static_cast<double>(e.bytes) * 1e-6);
  issue(VerifyCheckpoint{it->id});
  warn_of_full_disk(e);
  retire_checkpoints(s_, o_, {}, commands_);
  check_finished();
}

void Decision::warn_of_full_disk(const CommitEnded& e) {
  if (e.free_bytes == 0) return;
  SpaceFacts facts;
  facts.free_bytes = e.free_bytes;
  facts.checkpoint_bytes = e.bytes;
  facts.num_checkpoints = std::count_if(s_.checkpoints.begin(), s_.checkpoints.end(),
                                        [](const CheckpointInfo& c) { return c.committed; });
  facts.keep_last = o_.keep_last;
  facts.keep_every = o_.keep_every;
  facts.interval = o_.checkpoint_interval;
  facts.step = s_.counted_step;
  facts.total_steps = s_.total_steps;
  const SpaceForecast forecast = forecast_space(facts);
  if (!worth_saying(forecast)) return;
  note(Severity::kWarning,
       "the disk has {:.2f} GB left: {} more checkpoint{} of {:.2f} GB fit{}, and the one of about "
       "step {} does not; lower checkpoint.keep_last or keep_every, or free space",
       static_cast<double>(e.free_bytes) * 1e-9, forecast.saves_left,
       forecast.saves_left == 1 ? "" : "s", static_cast<double>(e.bytes) * 1e-9,
       forecast.saves_left == 1 ? "s" : "", forecast.full_at_step);
}

void Decision::on(const CheckpointImported& e) {
  const bool known = std::any_of(s_.checkpoints.begin(), s_.checkpoints.end(),
                                 [&](const CheckpointInfo& c) { return c.id == e.checkpoint_id; });
  if (known || !s_.seats.empty()) return;
  CheckpointInfo c;
  c.id = e.checkpoint_id;
  c.committed = true;
  c.read_back = true;
  c.verified = true;
  c.bytes = e.bytes;
  s_.checkpoints.push_back(c);
  note(Severity::kNotice, "weights imported from {} as checkpoint {} of step 0: {:.1f} MB",
       e.source, e.checkpoint_id, static_cast<double>(e.bytes) * 1e-6);
}

void Decision::on(const PruneRequested& e) {
  ControllerOptions options = o_;
  options.keep_last = e.keep_last;
  const std::size_t before = s_.checkpoints.size();
  retire_checkpoints(s_, options, e.in_use, commands_);
  note(Severity::kNotice, "{} pruned {} of {} checkpoints, keeping the last {} and the verified",
       e.by, before - s_.checkpoints.size(), before, e.keep_last);
}

void Decision::on(const VerifyEnded& e) {
  const auto it = std::find_if(s_.checkpoints.begin(), s_.checkpoints.end(),
                               [&](const CheckpointInfo& c) { return c.id == e.checkpoint_id; });
  if (it == s_.checkpoints.end()) return;
  if (!e.ok) {
    quarantine(s_, e.checkpoint_id, e.error, commands_);
    return;
  }
  it->read_back = true;
  mark_verified(s_, o_, commands_);
}

void Decision::on(const StopRequested& e) {
  if (s_.stop_requested || s_.phase == Phase::kFinished) return;
  s_.stop_requested = true;
  s_.stop_kind = e.kind;
  note(Severity::kNotice, "stop requested by {}: finish the step, checkpoint, leave", e.by);
  // During a takeover (a deadline while running) it waits for the agents.
  if (s_.phase == Phase::kRunning && !s_.deadline) command_stop();
}

void Decision::command_stop() {
  if (s_.stop_issued) return;
  s_.stop_issued = true;
  issue(IssueCommand{{s_.next_command++, WorkerCommandKind::kStop}});
}

void Decision::on(const RankFinished& e) {
  if (e.generation != s_.generation) return;
  Seat* seat = seat_of_rank(e.rank, e.worker);
  if (seat == nullptr || seat->rank < 0) return;
  if (seat->state != SeatState::kTraining && seat->state != SeatState::kPlanned) return;
  seat->state = SeatState::kFinished;
  seat->finished_step = e.step;
  seat->finish_cause = e.cause;
  check_finished();
}

void Decision::check_finished() {
  if (!active()) return;
  const Seat* first = nullptr;
  for (const Seat& seat : s_.seats) {
    if (seat.rank < 0) continue;
    if (seat.state != SeatState::kFinished) return;
    first = &seat;
  }
  if (first == nullptr) return;
  const std::int64_t step = first->finished_step;
  const std::string regroup = s_.regroup;  // the gathering clears it
  if (first->finish_cause == FinishCause::kRegrouped) {
    begin_gathering(regroup, kEvidenceDecision);
    return;
  }
  if (s_.phase != Phase::kFinishing) {
    s_.phase = Phase::kFinishing;
    s_.deadline = now_ + o_.hang_timeout;
    if (s_.failed_step == step) {
      save_last_again();
      return;
    }
    commit_complete_checkpoints(s_, o_, commands_);
  }
  const CheckpointInfo* last = newest_checkpoint(s_, step);
  if (last == nullptr || last->step != step) return;
  if (first->finish_cause == FinishCause::kDone) {
    finish(kExitDone, fmt::format("all {} steps are done", step));
  } else if (!s_.stop_requested) {
    begin_gathering(regroup, kEvidenceDecision);
  } else if (s_.stop_kind == StopKind::kPreempt) {
    finish(kExitRequeue, fmt::format("preempted after step {}; start again to go on", step));
  } else {
    finish(kExitStopped, fmt::format("stopped after step {}", step));
  }
}

}  // namespace tenax::scheduler
