// Steps computed a second time: on purpose, in a process of its own, before a rollback is paid for;
// and after every restore, where they must be what was journalled. What differs was computed
// wrongly by somebody.
#include <algorithm>
#include <bit>
#include <set>
#include <utility>

#include "scheduler/checkpoint_decisions.h"
#include "scheduler/exit_code.h"
#include "scheduler/layout.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_decision.h"
#include "scheduler/spike_replay.h"

namespace tenax::scheduler {

namespace {

/// Relative. Another processor's kernels may round differently (docs/numerics.md); a wrong restore
/// or a flipped bit is seldom so small, and training can live with one that is.
constexpr double kRoundingTolerance = 1e-3;
/// Steps replayed beyond the onset: a fault shows at the onset or not at all.
constexpr std::int64_t kStepsAfterOnset = 2;
/// Times the usual gradient norm: published spikes stay below 10^4 (docs/loss-spikes.md).
constexpr double kImplausibleNorm = 1e6;

MetricPoint point_of(const StepReport& r) {
  MetricPoint p;
  p.step = r.step;
  p.loss = r.loss;
  p.grad_norm = r.grad_norm;
  return p;
}

/// The newest verified checkpoint at or before `step`, else the newest one; null: none.
const CheckpointInfo* replay_source(const RunState& state, std::int64_t step) {
  const CheckpointInfo* best = nullptr;
  for (const CheckpointInfo& c : state.checkpoints) {
    if (!c.committed || c.quarantined || !c.verified || c.step > step ||
        !on_ancestry(state, c.branch, c.step))
      continue;
    if (best == nullptr || c.step > best->step) best = &c;
  }
  return best != nullptr ? best : newest_checkpoint(state, step);
}

}  // namespace

bool Decision::start_replay(PendingReplay::Cause cause, const SpikeDecision& d) {
  if (o_.replay_limit <= 0 || s_.replay) return false;
  const CheckpointInfo* source = replay_source(s_, std::max<std::int64_t>(0, d.onset - 1));
  PendingReplay replay;
  replay.cause = cause;
  replay.decision = d;
  replay.decision.events.clear();
  replay.from = source != nullptr ? source->step : 0;
  replay.checkpoint_id = source != nullptr ? source->id : 0;
  replay.to = std::min(s_.counted_step, d.onset + kStepsAfterOnset);
  if (replay.to - replay.from > o_.replay_limit) {
    note(Severity::kNotice,
         "the cause is not looked for: from the checkpoint of step {} to step {} are more than the "
         "{} steps of spikes.replay_steps",
         replay.from, replay.to, o_.replay_limit);
    return false;
  }
  replay.id = s_.next_replay++;
  s_.replay = std::move(replay);
  note(Severity::kNotice,
       "training waits while steps {} to {} are computed again in another process, from {}: a "
       "device, or data and weights? ({})",
       s_.replay->from + 1, s_.replay->to,
       source != nullptr ? fmt::format("the checkpoint of step {}", s_.replay->from)
                         : std::string("the initial weights"),
       d.reason);
  issue_replay();
  begin_gathering(fmt::format("steps up to {} are computed again", s_.replay->to),
                  kEvidenceDecision);
  return true;
}

bool Decision::check_implausible_norm(const StepReport& report) {
  const double usual = s_.spikes.now.baseline.grad_norm_level;
  if (report.held != HoldOutcome::kSame || usual <= 0 ||
      !(report.grad_norm > kImplausibleNorm * usual)) {
    return false;
  }
  SpikeDecision d;
  d.step = report.step;
  d.onset = report.step;
  d.reason = fmt::format("the gradient norm {:.4g} of step {} is {:.3g} times its median {:.4g}",
                         report.grad_norm, report.step, report.grad_norm / usual, usual);
  return start_replay(PendingReplay::Cause::kReports, d);
}

void Decision::issue_replay() {
  if (!s_.replay) return;
  const PendingReplay& r = *s_.replay;
  issue(ReplaySteps{r.id, r.checkpoint_id, r.from, r.to});
}

void Decision::on(const ReplayEnded& e) {
  if (!s_.replay || e.id != s_.replay->id) return;
  if (e.tokens_damaged) {
    // Kept: once the file is restored and the run resumed, the replay finds the damaged steps.
    s_.replay->tokens_damaged = true;
    finish(kExitStore,
           fmt::format("{}; restore the file and resume: what was trained from it is then undone "
                       "(seen because: {})",
                       e.error, s_.replay->decision.reason));
    return;
  }
  const PendingReplay replay = *std::exchange(s_.replay, std::nullopt);
  if (e.error.empty() && e.difference_step > 0) {
    blame_device(replay, e);
    return;
  }
  const std::string result =
      !e.error.empty()
          ? fmt::format("the steps could not be computed again: {}", e.error)
          : fmt::format(
                "all {} steps up to {} gave the same {} in another process: no device is "
                "to blame, data and weights are",
                e.compared, replay.to,
                e.spread == 0 ? std::string("bits")
                              : fmt::format("numbers, {:.2g} apart at most,", e.spread));
  note(e.error.empty() ? Severity::kNotice : Severity::kWarning, "{}", result);
  switch (replay.cause) {
    case PendingReplay::Cause::kSpike:
      roll_back(replay.decision);
      return;
    case PendingReplay::Cause::kReplicas:
      // Losses and norms do not show it, so the bytes differ since a step nobody can name.
      go_back_without_skipping(replay.from, fmt::format("{}; {}", replay.decision.reason, result));
      return;
    case PendingReplay::Cause::kReports:
      try_start();
      return;
  }
}

void Decision::blame_device(const PendingReplay& replay, const ReplayEnded& e) {
  const char* const cause =
      replay.tokens_damaged ? "from damaged tokens" : "wrongly, no sample is to blame";
  note(Severity::kError, "step {} was computed {}: {}", e.difference_step,
       replay.tokens_damaged ? cause : "wrongly", e.detail);
  const Degrees degrees = s_.degrees;
  const bool alone = degrees.world_size() == 1;
  if (!replay.tokens_damaged && (e.replica >= 0 || alone)) {
    const int replica = std::max(0, e.replica);
    std::set<std::uint32_t> agents;
    for (int rank = 0; rank < degrees.world_size(); ++rank) {
      if (coordinates_of(degrees, rank).dp != replica) continue;
      suspect(rank, fmt::format("it computed step {} wrongly: {}", e.difference_step, e.detail));
      if (const Seat* seat = seat_of_rank(static_cast<std::uint32_t>(rank), 0))
        agents.insert(seat->agent);
    }
    if (agents.size() == 1) exclude_faulty(*agents.begin());
    if (s_.phase == Phase::kFinished) return;
  }
  // The ladder had counted a rollback with a skip; no sample is to blame.
  if (replay.cause == PendingReplay::Cause::kSpike && !s_.spikes.ladder.rollbacks.empty())
    s_.spikes.ladder.rollbacks.pop_back();
  go_back_without_skipping(e.difference_step - 1,
                           fmt::format("step {} was computed {}: {}; what was seen: {}",
                                       e.difference_step, cause, e.detail, replay.decision.reason));
}

void Decision::exclude_faulty(std::uint32_t agent) {
  const auto left = std::count_if(s_.seats.begin(), s_.seats.end(), [&](const Seat& seat) {
    return wanted(seat) && seat.agent != agent;
  });
  if (!layout_for(static_cast<int>(left))) return;  // better a suspect than nobody
  exclude(agent, "its ranks computed wrongly");
}

void Decision::go_back_without_skipping(std::int64_t step, std::string reason) {
  if (s_.rollbacks >= o_.spikes.spikes.max_rollbacks) {
    finish(kExitGaveUp, fmt::format("all {} rollbacks of the run are spent; the last cause: {}",
                                    s_.rollbacks, reason));
    return;
  }
  SpikeDecision d;
  d.step = s_.counted_step;
  d.onset = step + 1;
  d.branch_point = step;
  d.reason = std::move(reason);
  roll_back(d);
}

void Decision::replicas_differ(std::int64_t step, const std::string& evidence) {
  SpikeDecision d;
  d.step = step;
  d.onset = std::min(step, s_.counted_step);
  d.reason = evidence;
  if (start_replay(PendingReplay::Cause::kReplicas, d)) return;
  const CheckpointInfo* source = newest_checkpoint(s_, step);
  go_back_without_skipping(source != nullptr ? source->step : 0, evidence);
}

// --- After a restore

void Decision::compare_replay(const StepReport& report) {
  const auto& history = s_.spikes.history;
  const auto known = std::find_if(history.begin(), history.end(),
                                  [&](const StepReport& r) { return r.step == report.step; });
  if (known == history.end()) {
    SpikeMonitor(o_.spikes).observe_forgotten(s_.spikes, report);
    return;
  }
  if (known->learning_rate != report.learning_rate && !s_.replays_another_schedule) {
    s_.replays_another_schedule = true;
    note(Severity::kWarning,
         "step {} is replayed with the learning rate {:.9g}, before it had {:.9g}: the "
         "configuration "
         "was changed since, and replayed steps are not compared",
         report.step, report.learning_rate, known->learning_rate);
  }
  if (s_.replays_another_schedule) return;
  const bool disputed = s_.dispute && s_.dispute->step == report.step;
  const auto exact = compare_replayed(point_of(*known), point_of(report), 0);
  if (!exact) {
    if (!disputed) return;
    note(Severity::kNotice, "replayed from another source, step {} is as journalled", report.step);
    if (s_.dispute->checkpoint_id != 0) {
      quarantine(s_, s_.dispute->checkpoint_id, "what was loaded from it is not what was saved",
                 commands_);
    }
    s_.dispute.reset();
    return;
  }
  note(Severity::kError,
       "replayed step {} differs: loss {:.17g} and gradient norm {:.17g}, journalled {:.17g} and "
       "{:.17g} (a restore failure or a faulty device)",
       report.step, report.loss, report.grad_norm, known->loss, known->grad_norm);
  if (!compare_replayed(point_of(*known), point_of(report), kRoundingTolerance)) return;
  const ReplayDispute again{report.step, std::bit_cast<std::uint64_t>(report.loss),
                            std::bit_cast<std::uint64_t>(report.grad_norm), s_.loaded_checkpoint};
  if (!disputed) {
    s_.dispute = again;
    ++s_.spikes.ladder.restore_failures;
    load_older(exact->reason);
    return;
  }
  const ReplayDispute first = *std::exchange(s_.dispute, std::nullopt);
  if (first.loss == again.loss && first.grad_norm == again.grad_norm) {
    go_back_without_skipping(
        report.step - 1,
        fmt::format("two replays from different sources agree on step {} and the journal does not: "
                    "it was computed wrongly then ({})",
                    report.step, exact->reason));
    return;
  }
  finish(kExitGaveUp, fmt::format("step {} gives other numbers each time it is computed: {}",
                                  report.step, exact->reason));
}

void Decision::load_older(const std::string& reason) {
  if (s_.spikes.ladder.restore_failures > o_.spikes.spikes.max_restore_failures) {
    finish(kExitGaveUp, fmt::format("{} restores failed; the last: {}",
                                    s_.spikes.ladder.restore_failures, reason));
    return;
  }
  s_.load_before = s_.loaded_step >= 0 ? s_.loaded_step : s_.counted_step + 1;
  note(Severity::kWarning, "an older checkpoint than that of step {} is loaded: {}", s_.load_before,
       reason);
  begin_gathering("what was restored is not what was saved", kEvidenceDecision);
}

}  // namespace tenax::scheduler
