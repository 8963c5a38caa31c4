// What to do about a verdict of the spike detector: the cheapest rung that may help, within
// budgets. A pure function of the event, of what was done before, and of the options; so every
// controller that replays the journal climbs alike.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/spike_event.h"
#include "scheduler/spike_options.h"

namespace tenax::scheduler {

enum class LadderRung : std::uint8_t {
  kNothing,     ///< it heals, or is only worth knowing
  kSkipUpdate,  ///< the guard kept the weights of this step
  kReplayStep,  ///< hold and compute the step again elsewhere before paying for anything
  kRollBack,    ///< to `branch_point`, skipping the samples of the skip steps
  kLoadOlder,   ///< the same branch point from an older checkpoint: the loaded one is not what was
                ///< saved
  kStop,
};

std::string_view to_string(LadderRung rung);

/// A rollback that was done. Steps are those of the branch that was left.
struct RollbackRecord {
  std::uint64_t branch = 0;  ///< the branch that was left
  std::int64_t onset = 0;
  std::int64_t branch_point = 0;
  std::int64_t skip_first = 0;
  std::int64_t skip_last = 0;  ///< inclusive
};

struct LadderHistory {
  std::vector<RollbackRecord> rollbacks;  ///< oldest first
  std::int64_t total_steps =
      0;  ///< planned length of the run; 0: unknown, the share is not limited
  std::int64_t restore_failures = 0;  ///< since the last good restore
};

/// `branch_point` is the last step that stays; [skip_first, skip_last] are the steps of the left
/// branch whose sample positions are never trained again; [soften_first, soften_last] are the steps
/// of the new branch that use `lr_factor` (1 and an empty range: as planned).
struct LadderDecision {
  LadderRung rung = LadderRung::kNothing;
  std::int64_t branch_point = -1;
  std::int64_t skip_first = 0;
  std::int64_t skip_last = -1;
  double lr_factor = 1;
  std::int64_t soften_first = 0;
  std::int64_t soften_last = -1;
  std::string reason;
};

/// Climbs for one event. A first rollback goes to onset - margin and skips up to the verdict +
/// margin; a recurrence within `region_steps` of an earlier onset goes back twice as far each time
/// and lowers the learning rate; spent budgets stop the run.
LadderDecision climb(const SpikeEvent& event, const LadderHistory& history,
                     const SpikeOptions& options);

}  // namespace tenax::scheduler
