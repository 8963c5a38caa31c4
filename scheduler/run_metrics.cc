#include "scheduler/run_metrics.h"

#include <algorithm>

namespace tenax::scheduler {

bool RunMetrics::add(const StepReport& report) {
  const auto it = newest_step_.find(report.branch);
  if (it != newest_step_.end() && report.step <= it->second) return false;
  newest_step_[report.branch] = report.step;
  reports_.push_back(report);
  useful_seconds_ += report.seconds;
  return true;
}

std::vector<StepReport> RunMetrics::add(const JournalEntry& entry) {
  std::vector<StepReport> fresh;
  const auto take = [&](const StepReport& r) {
    if (add(r)) fresh.push_back(r);
  };
  if (const auto* e = std::get_if<StepReported>(&entry.event)) {
    take(e->report);
  } else if (const auto* stopped = std::get_if<RankStopped>(&entry.event)) {
    for (const StepReport& r : stopped->state.reports) take(r);
  }
  // A rollback's branch begins after its branch point, which the abort names; what is replayed up
  // to there is not new.
  for (const Command& c : entry.commands) {
    if (const auto* abort = std::get_if<AbortGeneration>(&c)) {
      counted_step_ = abort->counted_step;
    } else if (const auto* start = std::get_if<StartGeneration>(&c)) {
      newest_step_.try_emplace(start->plan.branch, std::max(start->plan.step, counted_step_));
    }
  }
  return fresh;
}

}  // namespace tenax::scheduler
