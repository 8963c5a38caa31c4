#include "scheduler/spike_ladder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace tenax::scheduler {
namespace {

LadderDecision only(LadderRung rung, std::string reason) {
  LadderDecision decision;
  decision.rung = rung;
  decision.reason = std::move(reason);
  return decision;
}

std::int64_t length(std::int64_t first, std::int64_t last) {
  return std::max<std::int64_t>(0, last - first + 1);
}

/// Earlier rollbacks whose onset, or the window they skipped, lies near `onset`.
std::vector<RollbackRecord> in_region(std::int64_t onset, const LadderHistory& history,
                                      const SpikeOptions& options) {
  std::vector<RollbackRecord> near;
  for (const RollbackRecord& past : history.rollbacks)
    if (onset >= past.branch_point - options.region_steps &&
        onset <= std::max(past.onset, past.skip_last) + options.region_steps)
      near.push_back(past);
  return near;
}

/// The reason to stop instead, or nothing.
std::string spent_budget(const LadderDecision& wanted, std::size_t num_near,
                         const LadderHistory& history, const SpikeOptions& options) {
  if (num_near >= static_cast<std::size_t>(options.max_rollbacks_per_region))
    return fmt::format("{} rollbacks near this place did not help", num_near);
  if (history.rollbacks.size() >= static_cast<std::size_t>(options.max_rollbacks))
    return fmt::format("all {} rollbacks of the run are spent", options.max_rollbacks);
  if (history.rollbacks.empty() || history.total_steps <= 0) return {};
  std::int64_t skipped = 0;
  for (const RollbackRecord& past : history.rollbacks)
    skipped += length(past.skip_first, past.skip_last);
  const std::int64_t with_this = skipped + length(wanted.skip_first, wanted.skip_last);
  const double allowed = options.max_skipped_fraction * static_cast<double>(history.total_steps);
  if (static_cast<double>(with_this) <= allowed) return {};
  return fmt::format(
      "skipping {} more steps' samples would make {} of {}, over the {:.3g} % allowed",
      with_this - skipped, with_this, history.total_steps, 100 * options.max_skipped_fraction);
}

LadderDecision roll_back(const SpikeEvent& event, const LadderHistory& history,
                         const SpikeOptions& options) {
  const std::vector<RollbackRecord> near = in_region(event.onset, history, options);
  std::int64_t earliest = event.onset;
  for (const RollbackRecord& past : near) earliest = std::min(earliest, past.onset);
  const std::int64_t distance = options.margin_steps << std::min<std::size_t>(near.size(), 20);

  LadderDecision decision;
  decision.rung = LadderRung::kRollBack;
  decision.branch_point = std::max<std::int64_t>(0, earliest - distance);
  decision.skip_first = decision.branch_point + 1;
  decision.skip_last = event.step + options.margin_steps;
  if (!near.empty()) {
    decision.lr_factor = std::pow(options.soften_lr_factor, static_cast<double>(near.size()));
    decision.soften_first = decision.branch_point + 1;
    decision.soften_last = decision.skip_last + options.soften_steps;
  }
  if (const std::string spent = spent_budget(decision, near.size(), history, options);
      !spent.empty())
    return only(LadderRung::kStop, fmt::format("stop: {}; the cause: {}", spent, event.reason));

  decision.reason = fmt::format(
      "roll back to step {} ({} before the onset {}) and skip the samples of steps {} to {}",
      decision.branch_point, event.onset - decision.branch_point, event.onset, decision.skip_first,
      decision.skip_last);
  if (!near.empty())
    decision.reason +=
        fmt::format("; rollback {} of {} here, so learning rate x {:.3g} from step {} to {}",
                    near.size() + 1, options.max_rollbacks_per_region, decision.lr_factor,
                    decision.soften_first, decision.soften_last);
  decision.reason += "; the cause: " + event.reason;
  return decision;
}

LadderDecision restore_failed(const SpikeEvent& event, const LadderHistory& history,
                              const SpikeOptions& options) {
  if (history.restore_failures < options.max_restore_failures)
    return only(
        LadderRung::kLoadOlder,
        fmt::format("load an older checkpoint (failure {} of {} allowed): {}",
                    history.restore_failures + 1, options.max_restore_failures, event.reason));
  return only(LadderRung::kStop, fmt::format("stop: {} restores failed; the last: {}",
                                             history.restore_failures + 1, event.reason));
}

}  // namespace

std::string_view to_string(LadderRung rung) {
  switch (rung) {
    case LadderRung::kNothing:
      return "nothing";
    case LadderRung::kSkipUpdate:
      return "skip_update";
    case LadderRung::kReplayStep:
      return "replay_step";
    case LadderRung::kRollBack:
      return "roll_back";
    case LadderRung::kLoadOlder:
      return "load_older";
    case LadderRung::kStop:
      return "stop";
  }
  return "unknown";
}

LadderDecision climb(const SpikeEvent& event, const LadderHistory& history,
                     const SpikeOptions& options) {
  if (event.verdict == SpikeVerdict::kRestoreMismatch)
    return restore_failed(event, history, options);
  switch (event.action) {
    case SpikeAction::kNone:
      return only(LadderRung::kNothing, event.reason);
    case SpikeAction::kSkipUpdate:
      return only(LadderRung::kSkipUpdate, event.reason);
    case SpikeAction::kReplayStep:
      return only(LadderRung::kReplayStep, event.reason);
    case SpikeAction::kStop:
      return only(LadderRung::kStop, event.reason);
    case SpikeAction::kRollBack:
      return roll_back(event, history, options);
  }
  return only(LadderRung::kStop, "unknown action: " + event.reason);
}

}  // namespace tenax::scheduler
