// From one generation to the next.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "scheduler/checkpoint_decisions.h"
#include "scheduler/exit_code.h"
#include "scheduler/hang_culprit.h"
#include "scheduler/recovery_plan.h"
#include "scheduler/run_decision.h"

namespace tenax::scheduler {

namespace {

/// A generation that is given up while it forms counts as one without progress: no haste.
Duration setup_limit(const RunState& state, const ControllerOptions& options) {
  const Duration learned =
      section_limit(state.watch, options.watch, Section::kSetup, options.form_timeout).limit;
  return std::clamp(learned, options.form_timeout / 3, options.form_timeout);
}

}  // namespace

SectionLimit step_limit(const RunState& state, const ControllerOptions& options) {
  return section_limit(state.watch, options.watch,
                       section_of_next_step(options.watch, state.newest_report_step,
                                            state.total_steps, state.first_of_generation),
                       options.hang_timeout);
}

void Decision::blame(const std::string& reason, EvidenceStrength strength) {
  if (strength <= s_.culprit_strength) return;
  s_.culprit = reason;
  s_.culprit_strength = strength;
}

void Decision::begin_gathering(const std::string& reason, EvidenceStrength strength) {
  ++s_.generation;
  s_.phase = Phase::kGathering;
  blame(reason, strength);
  s_.fault_at = s_.aborted_at = now_;
  s_.deadline = now_ + o_.abort_timeout;
  s_.next_command = 1;
  s_.stop_issued = false;
  s_.regroup.clear();
  s_.last_report_at.reset();
  s_.flights.clear();
  s_.hashes.clear();
  s_.hashes_step = -1;
  s_.failed_step = -1;
  for (Seat& seat : s_.seats) {
    switch (seat.state) {
      case SeatState::kPlanned:
      case SeatState::kTraining:
      case SeatState::kStopped:
      case SeatState::kFinished:
        seat.state = SeatState::kLeaving;
        break;
      default:
        break;
    }
  }
  drop_unfinished_checkpoints(s_, reason, commands_);
  issue(AbortGeneration{s_.generation, s_.counted_step, reason});
}

void Decision::try_start() {
  if (s_.phase != Phase::kGathering || s_.replay) return;
  // What a smaller target had kept may have been on agents that are gone.
  revive_retired(s_.target.world_size() + o_.spares - count_wanted());
  std::vector<int> present;  // seats whose workers can take part
  int coming = 0;
  for (std::size_t i = 0; i < s_.seats.size(); ++i) {
    const Seat& seat = s_.seats[i];
    if (!wanted(seat)) continue;
    if (seat.state == SeatState::kLeaving) return;  // it may hold what the others need
    if (ready(seat)) {
      present.push_back(static_cast<int>(i));
    } else {
      ++coming;
    }
  }
  if (s_.fault_at && now_ < *s_.fault_at + o_.collect_window) return;
  const std::optional<Degrees> degrees = layout_for(static_cast<int>(present.size()));
  const std::optional<Degrees> later = layout_for(static_cast<int>(present.size()) + coming);
  if (degrees != later) return;  // those that are coming will be needed
  if (!degrees) {
    finish(kExitGaveUp, fmt::format("{} workers are left, too few for any layout; last reason: {}",
                                    present.size(), s_.culprit));
    return;
  }
  if (s_.generation > s_.last_progress_generation + o_.max_generations_without_progress) {
    finish(kExitGaveUp,
           fmt::format("no step was completed in the last {} generations; last reason: {}",
                       o_.max_generations_without_progress, s_.culprit));
    return;
  }
  const std::uint64_t generation = s_.generation;
  RecoveryPlan recovery = make_recovery_plan(s_, o_, *degrees, present);
  const bool imported = std::any_of(s_.checkpoints.begin(), s_.checkpoints.end(),
                                    [](const CheckpointInfo& c) { return c.step == 0; });
  if (imported && recovery.plan.sources.front().kind == SourceKind::kInitial) {
    finish(kExitStore, "the run began with imported weights, which cannot be read back any more");
    return;
  }
  for (const StepReport& report : recovery.uncounted) {
    count(report);
    // A spike verdict began another gathering, or ended the run.
    if (s_.generation != generation || s_.phase == Phase::kFinished) return;
  }
  name_culprit();
  const std::string change =
      *degrees == s_.degrees
          ? std::string()
          : fmt::format("{} instead of {}: ", layout_text(*degrees), layout_text(s_.degrees));
  note(Severity::kNotice, "generation {}: {}{}{}", s_.generation, change, recovery.reason,
       s_.culprit_strength > 0 ? fmt::format(" (cause: {})", s_.culprit) : std::string());
  const bool loads = recovery.plan.sources.front().kind == SourceKind::kCheckpoint ||
                     recovery.plan.sources.front().kind == SourceKind::kInitial;
  s_.loaded_step = loads ? recovery.plan.step : -1;
  s_.loaded_checkpoint = recovery.plan.checkpoint_id;
  s_.load_before = -1;
  s_.replays_another_schedule = false;
  const bool restored =
      std::any_of(recovery.plan.sources.begin(), recovery.plan.sources.end(),
                  [](const RankSource& source) { return source.kind != SourceKind::kMemory; });
  if (restored)
    SpikeMonitor(o_.spikes).note_restored(s_.spikes, recovery.plan.step < s_.counted_step);
  StartGeneration start;
  start.plan = std::move(recovery.plan);
  s_.degrees = *degrees;
  s_.distrust_memory = false;
  for (Seat& seat : s_.seats) seat.rank = -1;
  for (std::size_t rank = 0; rank < recovery.seats.size(); ++rank) {
    Seat& seat = s_.seats[recovery.seats[rank]];
    start.seats.push_back({seat.agent, seat.slot, seat.incarnation});
    seat.rank = static_cast<int>(rank);
    seat.state = SeatState::kPlanned;
  }
  s_.phase = Phase::kForming;
  s_.fault_at.reset();
  s_.culprit_strength = 0;
  const bool in_memory = std::all_of(
      start.plan.sources.begin(), start.plan.sources.end(), [](const RankSource& source) {
        return source.kind == SourceKind::kMemory || source.kind == SourceKind::kPeer;
      });
  s_.setup_began = in_memory ? std::optional<Time>(now_) : std::nullopt;
  s_.first_of_generation = true;
  s_.newest_report_step = start.plan.step;
  s_.deadline = now_ + (in_memory ? setup_limit(s_, o_) : o_.form_timeout);
  issue(std::move(start));
  release_drained();
  retire_surplus();
}

void Decision::name_culprit() {
  if (s_.culprit_strength == 0 || s_.culprit_strength > kEvidenceHang) return;
  std::vector<int> silent;
  for (const Seat& seat : s_.seats) {
    if (seat.rank >= 0 && !s_.flights.contains(seat.rank)) silent.push_back(seat.rank);
  }
  const std::optional<Culprit> culprit = find_culprit(s_.flights, silent);
  if (!culprit) return;
  note(Severity::kWarning, "first culprit: {}", culprit->evidence);
  s_.culprit = fmt::format("{}; rank {} did not arrive", s_.culprit, culprit->rank);
}

void Decision::on(const RankFormed& e) {
  if (e.generation != s_.generation || s_.phase != Phase::kForming) return;
  Seat* formed = seat_of_rank(e.rank, e.worker);
  if (formed == nullptr || formed->state != SeatState::kPlanned) return;
  formed->state = SeatState::kTraining;
  if (!e.rejected.empty()) {
    note(Severity::kNotice, "rank {} did not use {}; it has {}", e.rank, e.rejected, e.source);
  }
  for (const Seat& seat : s_.seats) {
    if (seat.rank >= 0 && seat.state != SeatState::kTraining) return;
  }
  s_.phase = Phase::kRunning;
  s_.deadline.reset();
  s_.last_progress_at = s_.last_report_at = now_;
  if (s_.setup_began) observe(s_.watch, Section::kSetup, to_seconds(now_ - *s_.setup_began));
  s_.setup_began.reset();
  note(Severity::kInfo, "generation {} trains on branch {} after step {}", s_.generation, s_.branch,
       e.step);
  if (s_.stop_requested) command_stop();
  consider_regroup();
}

void Decision::on(const RankStopped& e) {
  if (e.generation != s_.generation) return;
  Seat* seat = seat_of_rank(e.rank, e.worker);
  if (seat == nullptr) return;
  if (e.bad_checkpoint != 0) quarantine(s_, e.bad_checkpoint, e.reason, commands_);
  if (active() && seat->rank >= 0) {
    note(Severity::kWarning, "generation {} broke: {}", s_.generation, e.reason);
    seat->state = SeatState::kStopped;
    begin_gathering(e.reason, kEvidenceCollective);
    s_.flights[seat->rank] = e.flight;
    return;
  }
  if (s_.phase != Phase::kGathering || seat->state != SeatState::kLeaving) return;
  if (seat->rank >= 0 && !e.flight.empty()) s_.flights[seat->rank] = e.flight;
  seat->state = SeatState::kStopped;
  seat->held = e.state;
  hurry_the_hung();
  try_start();
}

void Decision::hurry_the_hung() {
  if (s_.culprit_strength != kEvidenceHang) return;
  std::vector<int> silent;
  for (const Seat& seat : s_.seats) {
    if (seat.state == SeatState::kLeaving && seat.rank >= 0) silent.push_back(seat.rank);
  }
  const std::optional<Culprit> culprit = find_culprit(s_.flights, silent);
  if (!culprit || std::find(silent.begin(), silent.end(), culprit->rank) == silent.end()) return;
  // A rank that is only slow needs no longer to the end of its step than a step has taken.
  const std::vector<double>& steps = s_.watch.seconds[static_cast<std::size_t>(Section::kStep)];
  const double longest = steps.empty() ? 0 : *std::max_element(steps.begin(), steps.end());
  const Time soon = now_ + std::max(o_.hang_grace, from_seconds(longest));
  if (!s_.deadline || soon < *s_.deadline) s_.deadline = soon;
}

void Decision::on(const TimerFired&) {
  for (Seat& seat : s_.seats) {
    if (seat.spawn_at && now_ >= *seat.spawn_at) spawn_worker(seat);
  }
  end_late_starters();
  if (s_.phase == Phase::kFinished) return;
  readmit_excluded();
  if (s_.fault_at && now_ >= *s_.fault_at + o_.collect_window) s_.fault_at.reset();
  if (s_.phase == Phase::kRunning && !s_.deadline && s_.last_progress_at) {
    const SectionLimit limit = step_limit(s_, o_);
    if (now_ >= *s_.last_progress_at + limit.limit) {
      note(Severity::kWarning, "no step was reported for {:.1f} s, {}: the generation hangs",
           to_seconds(limit.limit), limit.reason);
      begin_gathering("the step hangs", kEvidenceHang);
      return;
    }
  }
  if (s_.deadline && now_ >= *s_.deadline) {
    s_.deadline = now_ + o_.abort_timeout;
    const std::uint64_t generation = s_.generation;
    finish_takeover();
    if (s_.generation != generation || s_.phase == Phase::kFinished) return;
    switch (s_.phase) {
      case Phase::kGathering:
        for (Seat& seat : s_.seats) {
          if (seat.state != SeatState::kLeaving) continue;
          note(Severity::kWarning, "{} did not leave its generation within {:.1f} s and is killed",
               name_of_seat(seat), to_seconds(now_ - s_.aborted_at.value_or(now_)));
          issue(KillWorker{seat.agent, seat.slot, seat.incarnation, "did not answer the abort"});
        }
        break;
      case Phase::kForming:
        begin_gathering("forming the generation took too long", kEvidenceHang);
        return;
      case Phase::kFinishing:
        note(Severity::kWarning, "the last checkpoint is not committed yet; trying again");
        begin_gathering("the last checkpoint took too long", kEvidenceHang);
        return;
      case Phase::kRunning:
      case Phase::kFinished:
        s_.deadline.reset();
        break;
    }
  }
  try_start();
}

}  // namespace tenax::scheduler
