// Exit codes of `tenax train`, documented in docs/exit-codes.md.
#pragma once

namespace tenax::scheduler {

enum ExitCode : int {
  kExitDone = 0,
  kExitInternal = 1,    ///< a bug of ours
  kExitUsage = 2,       ///< unknown command or flag
  kExitConfig = 3,      ///< the configuration or an input file is wrong
  kExitStore = 4,       ///< the run directory is in use, unwritable, full or damaged
  kExitGaveUp = 5,      ///< faults beyond the restart budget, or no progress
  kExitDiverged = 6,    ///< loss spikes beyond the rollback budget
  kExitStopped = 7,     ///< stopped by the user after a checkpoint; --resume goes on
  kExitRequeue = 75,    ///< preempted after a checkpoint (EX_TEMPFAIL): run the same command again
  kExitAbandoned = 130  ///< second Ctrl-C: left at once; the last committed checkpoint is intact
};

}  // namespace tenax::scheduler
