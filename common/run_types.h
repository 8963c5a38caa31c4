// The values that cross rooms: what a step reports, which samples are skipped, who holds which
// bytes. Plain structs with value semantics; the meaning of each word is fixed in docs/glossary.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/hash.h"

namespace tenax {

/// Absolute sample positions [begin, end) that are never trained.
struct SkipWindow {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool operator==(const SkipWindow&) const = default;
};

/// What the guard did with a step's update. Of a skipped one the weights did not change.
enum class UpdateKind : std::uint8_t {
  kApplied = 0,
  kSkippedNonFinite = 1,  ///< loss or gradient norm was not finite
  kSkippedOverflow = 2,   ///< the gradient norm alone was not finite, under fp16 loss scaling
  kSkippedOutlier = 3,    ///< the gradient norm was far above its usual level
};

/// How a step ended that the guard held and computed a second time from the same weights and
/// samples.
enum class HoldOutcome : std::uint8_t {
  kNotHeld = 0,
  kSame = 1,      ///< the same bits again: data and weights are the cause
  kDiffered = 2,  ///< other bits: a device computed wrongly; the second computation counts
};

/// What the step guard remembers from one step to the next: a function of the reports of the
/// branch. Every rank and the controller hold the same; it is part of plans and checkpoints.
struct GuardState {
  std::int64_t samples = 0;      ///< applied steps seen
  double norm_level = 0;         ///< usual gradient norm, moved little by outliers
  double norm_mean = 0;          ///< of adaptive clipping: of the norms as clipped
  double norm_variance = 0;      ///< likewise
  std::int64_t quiet_until = 0;  ///< no outlier is held up to this step
  bool operator==(const GuardState&) const = default;
};

/// The global facts of one optimizer step. Every rank computes the same report (bit for bit) from
/// the verdict all-reduce; timings apart.
struct StepReport {
  std::uint64_t branch = 0;
  std::int64_t step = 0;  ///< 1-based: the step that this update completed
  double loss = 0;        ///< mean over the global batch's unmasked targets, nats
  double grad_norm = 0;   ///< global L2 norm before clipping
  double learning_rate = 0;
  std::int64_t tokens = 0;          ///< unmasked targets in the global batch
  std::int64_t position_begin = 0;  ///< first sample position trained, inclusive
  std::int64_t position_end = 0;    ///< one past the last sample position trained
  UpdateKind update = UpdateKind::kApplied;
  double eval_loss = 0;  ///< held-out loss after this step; valid if has_eval
  bool has_eval = false;
  double seconds = 0;    ///< wall time of the step on the reporting rank; not compared
  double clip_norm = 0;  ///< the gradient was clipped to this norm at most; 0: no limit
  HoldOutcome held = HoldOutcome::kNotHeld;
  std::int32_t suspect_rank = -1;  ///< if `held` is kDiffered: whose own gradients differed; -1:
                                   ///< several or none
  /// Mean loss of each replica's samples; empty for one.
  std::vector<double> replica_losses = {};
  /// Of the reporting rank: how long training waited for a snapshot since the report before,
  /// between the steps and in this one; not compared.
  double snapshot_seconds = 0;
};

/// One of the last transfers of a rank, as it was when its generation was given up: who waited for
/// whom.
struct FlightNote {
  std::uint64_t sequence = 0;  ///< counts the rank's transfers and collectives
  std::string operation;       ///< "send", "recv" or a collective's name
  std::string within;          ///< the collective it belongs to; empty outside
  int peer = -1;               ///< -1 for a collective
  std::uint64_t bytes = 0;
  std::string state;   ///< "posted" (begun, not ended), "done", "failed"
  double seconds = 0;  ///< since it began, or how long it took
  bool operator==(const FlightNote&) const = default;
};

/// What a worker has to say of its GPU.
enum class DeviceTrouble : std::uint8_t {
  kFault = 0,          ///< its context is broken, with all memory in it
  kOutOfMemory = 1,    ///< an allocation was refused; ends the generation at least
  kCommunication = 2,  ///< NCCL failed; ends the generation at least
  kHealth = 3,         ///< Xid, memory errors, a clock that is held down; training goes on
};

/// Degrees of parallelism.
struct Degrees {
  int dp = 1;
  int tp = 1;
  int pp = 1;
  int world_size() const { return dp * tp * pp; }
  bool operator==(const Degrees&) const = default;
};

/// What one rank holds after its generation ended: the basis of deciding where to go on
/// (docs/protocol.md: a step half done).
struct RankState {
  bool has_weights = false;  ///< false: a fresh process; the rest is meaningless
  std::uint64_t branch = 0;
  std::int64_t last_applied = 0;     ///< the weights are those after this step
  std::int64_t gradients_ready = 0;  ///< reduced gradients of this step are kept; 0 = none
  bool verdict_known = false;        ///< the verdict of `gradients_ready` was received
  StepReport verdict;                ///< of `gradients_ready` if verdict_known
  std::vector<StepReport>
      reports;    ///< of applied steps that the supervisor may not have counted, ascending
  int rank = -1;  ///< whose shard the weights are, in the layout `degrees`
  Degrees degrees;
};

/// Where a rank takes its weights and optimizer state from when a generation starts.
enum class SourceKind : std::uint8_t {
  kInitial = 0,     ///< computed from the seed (step 0)
  kMemory = 1,      ///< it holds them already
  kPeer = 2,        ///< a data-parallel peer sends them
  kCheckpoint = 3,  ///< the plan's checkpoint: the host's slot if it still holds it, else the store
};

struct RankSource {
  SourceKind kind = SourceKind::kInitial;
  int peer = -1;  ///< sending rank, for kPeer
  bool operator==(const RankSource&) const = default;
};

/// Multiplies the learning rate of steps first..last (inclusive) by `factor`.
struct Softening {
  std::int64_t first = 0;
  std::int64_t last = 0;
  double factor = 1.0;
  bool operator==(const Softening&) const = default;
};

/// Command 0 of a generation: how every rank starts. Equal on all ranks; its digest is compared in
/// the first verdict.
struct Plan {
  std::uint64_t generation = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;  ///< all ranks hold the weights after this step before the next one begins
  std::int64_t total_steps = 0;
  Degrees degrees;
  std::vector<RankSource> sources;      ///< by rank
  std::uint64_t checkpoint_id = 0;      ///< for kCheckpoint sources
  std::uint64_t checkpoint_branch = 0;  ///< for finding the checkpoint in a slot
  bool has_half_step =
      false;             ///< ranks that only hold the gradients of `step` apply them first ...
  StepReport half_step;  ///< ... with this verdict
  std::vector<SkipWindow> skip_windows;
  std::vector<Softening> softenings;
  GuardState guard;  ///< after `step`
};

/// Numbered within a generation without gaps, beginning with 1; obeyed by all ranks at one
/// boundary.
enum class WorkerCommandKind : std::uint8_t {
  kStop = 0,      ///< snapshot, then end the training loop
  kSnapshot = 1,  ///< take a snapshot although none is due
  kRegroup =
      2,  ///< end the training loop without a snapshot: the next generation has another layout
};

struct WorkerCommand {
  std::int64_t number = 0;
  WorkerCommandKind kind = WorkerCommandKind::kStop;
};

/// Why a rank left its training loop in good order.
enum class FinishCause : std::uint8_t {
  kDone = 0,
  kStopped = 1,
  kRegrouped = 2,  ///< no snapshot was taken; the weights stay in memory
};

/// A box of a logical tensor: offset and extent for each dim.
struct Box {
  std::vector<std::int64_t> offset;
  std::vector<std::int64_t> extent;
  bool operator==(const Box&) const = default;
};

}  // namespace tenax
