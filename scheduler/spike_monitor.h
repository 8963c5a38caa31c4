// The spike path of one run: keeps the recent step reports of the current branch beside the
// detector, so that a rollback can rewind the detector to its branch point, and turns detector
// events into one decision. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/run_types.h"
#include "scheduler/spike_detector.h"
#include "scheduler/spike_ladder.h"
#include "scheduler/spike_options.h"

namespace tenax::scheduler {

struct SpikeMonitorOptions {
  SpikeOptions spikes;
  std::size_t max_history =
      4096;  ///< reports kept; the older half is folded into `base` when exceeded
};

struct SpikeMonitorState {
  SpikeDetectorState base;  ///< before the first report of `history`
  SpikeDetectorState now;   ///< after the last one
  std::vector<StepReport>
      history;           ///< counted reports of the current branch's ancestry, ascending by step
  LadderHistory ladder;  ///< rollbacks done so far
};

/// What to do about the newest report, with the sentences for the journal.
struct SpikeDecision {
  std::vector<SpikeEvent> events;
  bool roll_back = false;
  bool stop = false;
  std::int64_t onset = 0;
  std::int64_t branch_point = 0;  ///< the last step that stays
  SkipWindow skip;                ///< absolute positions
  std::optional<Softening> softening;
  std::string reason;
};

class SpikeMonitor {
 public:
  explicit SpikeMonitor(SpikeMonitorOptions options) : options_(options) {}

  SpikeMonitorState initial() const;
  /// Feeds the next counted report. Precondition: steps ascend by one.
  SpikeDecision observe(SpikeMonitorState& state, const StepReport& report,
                        std::int64_t global_batch_size, std::int64_t total_steps) const;
  /// Forgets everything after `step`.
  void rewind(SpikeMonitorState& state, std::int64_t step) const;
  /// Whether a checkpoint taken now may become verified.
  bool sound(const SpikeMonitorState& state) const;

 private:
  SpikeMonitorOptions options_;
};

}  // namespace tenax::scheduler
