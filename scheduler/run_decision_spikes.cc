// Loss spikes and wrong computations: what the guard did, rollbacks, suspects.
#include <algorithm>
#include <utility>

#include "scheduler/checkpoint_decisions.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_decision.h"

namespace tenax::scheduler {

void Decision::tell_guard(const StepReport& report) {
  if (report.held == HoldOutcome::kNotHeld && report.update != UpdateKind::kSkippedOutlier) return;
  note(Severity::kWarning, "step {}: {}", report.step, describe_guard(report));
  if (report.held == HoldOutcome::kDiffered && report.suspect_rank >= 0)
    suspect(report.suspect_rank,
            fmt::format("its gradients of step {} were not the same twice", report.step));
}

void Decision::suspect(int rank, const std::string& evidence) {
  const Seat* seat = rank < 0 ? nullptr : seat_of_rank(static_cast<std::uint32_t>(rank), 0);
  if (seat == nullptr) return;
  note(Severity::kError, "the device of rank {} (agent {} on {}, slot {}) is suspect: {}", rank,
       seat->agent, s_.agents[seat->agent].host, seat->slot, evidence);
  issue(SuspectDevice{static_cast<std::uint32_t>(rank), seat->agent, seat->slot, evidence});
}

void Decision::keep_samples(std::int64_t first_step, std::int64_t last_step) {
  issue(KeepSamples{s_.branch, first_step, last_step,
                    fmt::format("branch{}-step{}", s_.branch, last_step)});
}

void Decision::roll_back(const SpikeDecision& d) {
  const std::uint64_t left = s_.branch;
  const std::int64_t from = s_.counted_step;
  const bool skips = d.skip.end > d.skip.begin;
  withdraw_after_onset(s_, d.onset, commands_);
  s_.branch = s_.next_branch++;
  s_.branches.push_back({s_.branch, left, d.branch_point});
  s_.counted_step = d.branch_point;
  if (skips) s_.skip_windows.push_back(d.skip);
  if (d.softening) s_.softenings.push_back(*d.softening);
  ++s_.rollbacks;
  const CheckpointInfo* source = newest_checkpoint(s_, d.branch_point);
  SpikeMonitor(o_.spikes).rewind(s_.spikes, d.branch_point, source != nullptr ? source->step : 0,
                                 source != nullptr ? source->guard : GuardState());
  note(Severity::kWarning,
       "rollback {}: branch {} leaves branch {} after step {} (it was at step {}); {}: {}",
       s_.rollbacks, s_.branch, left, d.branch_point, from,
       skips ? fmt::format("samples [{}, {}) are skipped", d.skip.begin, d.skip.end)
             : std::string("no sample is skipped"),
       d.reason);
  begin_gathering(fmt::format("rollback to step {}", d.branch_point), kEvidenceDecision);
}

void Decision::on(const RollbackRequested& e) {
  const SpikeMonitor monitor(o_.spikes);
  std::string wrong;
  if (e.to < 0 || e.to > s_.counted_step) {
    wrong = fmt::format("step {} is not between 0 and the newest step {}", e.to, s_.counted_step);
  } else if (e.skip_last >= e.skip_first && e.skip_first <= e.to) {
    wrong = fmt::format("step {} stays, so the samples of step {} cannot be skipped", e.to,
                        e.skip_first);
  } else if (!(e.lr_factor > 0) || e.lr_steps < 0) {
    wrong = fmt::format("learning rate x {} for {} steps is impossible", e.lr_factor, e.lr_steps);
  }
  const auto skip = monitor.positions(s_.spikes, e.skip_first, e.skip_last, o_.global_batch_size);
  if (wrong.empty() && e.skip_last >= e.skip_first && !skip) {
    wrong =
        fmt::format("the samples of step {} are no longer known (the oldest are of step {})",
                    e.skip_first, s_.spikes.history.empty() ? 0 : s_.spikes.history.front().step);
  }
  if (!wrong.empty()) {
    note(Severity::kError, "rollback asked for by {} is refused: {}", e.by, wrong);
    return;
  }
  s_.replay.reset();  // whatever was being found out, the operator knows better
  SpikeDecision d;
  d.step = s_.counted_step;
  d.onset = e.to + 1;
  d.branch_point = e.to;
  if (skip) d.skip = *skip;
  if (e.lr_factor != 1 && e.lr_steps > 0)
    d.softening = Softening{e.to + 1, e.to + e.lr_steps, e.lr_factor};
  d.reason = fmt::format("asked for by {}", e.by);
  if (d.softening)
    d.reason +=
        fmt::format(", learning rate x {:.3g} up to step {}", e.lr_factor, d.softening->last);
  if (!s_.spikes.history.empty())
    d.reason += fmt::format("; the loss was {:.6g} at step {}", s_.spikes.history.back().loss,
                            s_.counted_step);
  roll_back(d);
}

}  // namespace tenax::scheduler
