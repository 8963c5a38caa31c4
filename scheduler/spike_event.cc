#include "scheduler/spike_event.h"

namespace tenax::scheduler {

std::string_view to_string(SpikeVerdict verdict) {
  switch (verdict) {
    case SpikeVerdict::kArmed:
      return "armed";
    case SpikeVerdict::kOutlier:
      return "outlier";
    case SpikeVerdict::kSpike:
      return "spike";
    case SpikeVerdict::kRecovered:
      return "recovered";
    case SpikeVerdict::kRollback:
      return "rollback";
    case SpikeVerdict::kDivergence:
      return "divergence";
    case SpikeVerdict::kLevelShift:
      return "level_shift";
    case SpikeVerdict::kAbnormalDrop:
      return "abnormal_drop";
    case SpikeVerdict::kLossZero:
      return "loss_zero";
    case SpikeVerdict::kNonFinite:
      return "non_finite";
    case SpikeVerdict::kOverflow:
      return "overflow";
    case SpikeVerdict::kMissingReports:
      return "missing_reports";
    case SpikeVerdict::kRestoreMismatch:
      return "restore_mismatch";
  }
  return "unknown";
}

std::string_view to_string(SpikeAction action) {
  switch (action) {
    case SpikeAction::kNone:
      return "none";
    case SpikeAction::kSkipUpdate:
      return "skip_update";
    case SpikeAction::kReplayStep:
      return "replay_step";
    case SpikeAction::kRollBack:
      return "roll_back";
    case SpikeAction::kStop:
      return "stop";
  }
  return "unknown";
}

std::string_view to_string(SpikePhase phase) {
  switch (phase) {
    case SpikePhase::kOk:
      return "ok";
    case SpikePhase::kArmed:
      return "armed";
    case SpikePhase::kSpike:
      return "spike";
    case SpikePhase::kRecovered:
      return "recovered";
    case SpikePhase::kRollback:
      return "rollback";
  }
  return "unknown";
}

}  // namespace tenax::scheduler
