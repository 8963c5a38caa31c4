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
#include "scheduler/step_guard.h"

namespace tenax::scheduler {

struct SpikeMonitorOptions {
  SpikeOptions spikes;
  GuardOptions guard;
  std::size_t max_history =
      4096;  ///< reports kept; the older half is folded into `base` when exceeded
};

struct SpikeMonitorState {
  SpikeDetectorState base;  ///< before the first report of `history`
  SpikeDetectorState now;   ///< after the last one
  std::vector<StepReport>
      history;            ///< counted reports of the current branch's ancestry, ascending by step
  LadderHistory ladder;   ///< rollbacks done so far
  GuardState guard_base;  ///< the step guard's state after `guard_base_step`
  std::int64_t guard_base_step = 0;         ///< before the first report of `history`
  std::vector<std::int64_t> unsound_steps;  ///< ascending: after these the detector was not calm
};

/// What to do about the newest report, with the sentences for the journal.
struct SpikeDecision {
  std::vector<SpikeEvent> events;
  bool roll_back = false;
  bool replay = false;      ///< compute the newest steps again elsewhere first
  bool load_older = false;  ///< what was restored is not what was saved
  bool stop = false;
  std::int64_t step = 0;  ///< whose report decided
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
  /// Takes in a report of a replayed step that the history does not hold any more: only the guard's
  /// state still needs it.
  void observe_forgotten(SpikeMonitorState& state, const StepReport& report) const;
  /// Forgets everything after `step`. Where the history does not reach back so far, the guard's
  /// state begins with `guard` after `guard_step`, those of the checkpoint that will be loaded.
  void rewind(SpikeMonitorState& state, std::int64_t step, std::int64_t guard_step,
              const GuardState& guard) const;
  /// Absolute positions of the samples of steps first..last of the current branch; steps not yet
  /// reported are taken as full batches. Nothing where the history does not reach back to `first`,
  /// or for no steps.
  std::optional<SkipWindow> positions(const SpikeMonitorState& state, std::int64_t first,
                                      std::int64_t last, std::int64_t global_batch_size) const;
  /// Weights were restored. If no step is replayed, the next loss can only be compared with those
  /// before; else the replayed steps are compared, which says more.
  void note_restored(SpikeMonitorState& state, bool replays) const;
  /// Whether a checkpoint taken after the newest report may become verified.
  bool sound(const SpikeMonitorState& state) const;
  /// The same for a checkpoint taken after `step`, however late it is committed.
  bool sound_after(const SpikeMonitorState& state, std::int64_t step) const;
  /// What the step guard knows after `step`; from the oldest step known if `step` is before it.
  GuardState guard_after(const SpikeMonitorState& state, std::int64_t step) const;

 private:
  /// Feeds history[first, end) with the ramps they show; the events of the last one go to `events`.
  SpikeDetector feed(SpikeDetector detector, const std::vector<StepReport>& history,
                     std::size_t first, std::size_t end, std::vector<SpikeEvent>* events) const;
  void fold_older_half(SpikeMonitorState& state) const;

  SpikeMonitorOptions options_;
};

}  // namespace tenax::scheduler
