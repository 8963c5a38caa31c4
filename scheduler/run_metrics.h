// The metric series of a run, collected from its journal: one report for each (branch, step), first
// report wins. Used by the dashboard while the run lives and by `tenax metrics` afterwards. Value
// type.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "common/run_types.h"
#include "scheduler/run_json.h"

namespace tenax::scheduler {

class RunMetrics {
 public:
  /// Takes what the entry reports; returns the reports that are new, in order.
  std::vector<StepReport> add(const JournalEntry& entry);

  const std::vector<StepReport>& reports() const { return reports_; }
  /// Of the newest branch.
  const StepReport* newest() const { return reports_.empty() ? nullptr : &reports_.back(); }
  /// Wall seconds of all steps that were new: the useful part of goodput.
  double useful_seconds() const { return useful_seconds_; }

 private:
  bool add(const StepReport& report);

  std::vector<StepReport> reports_;
  std::map<std::uint64_t, std::int64_t> newest_step_;  ///< by branch
  double useful_seconds_ = 0;
  std::int64_t counted_step_ = 0;  ///< at the last abort
};

}  // namespace tenax::scheduler
