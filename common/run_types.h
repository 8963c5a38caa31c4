// The values that cross rooms: what a step reports, which samples are skipped, who holds which bytes. Plain structs with
// value semantics; the meaning of each word is fixed in docs/glossary.md.
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

/// What the guard did with a step's update.
enum class UpdateKind : std::uint8_t {
  kApplied = 0,
  kSkippedNonFinite = 1,  ///< loss or gradient norm was not finite; the weights did not change
};

/// The global facts of one optimizer step. Every rank computes the same report (bit for bit) from the verdict
/// all-reduce; timings apart.
struct StepReport {
  std::uint64_t branch = 0;
  std::int64_t step = 0;             ///< 1-based: the step that this update completed
  double loss = 0;                   ///< mean over the global batch's unmasked targets, nats
  double grad_norm = 0;              ///< global L2 norm before clipping
  double learning_rate = 0;
  std::int64_t tokens = 0;           ///< unmasked targets in the global batch
  std::int64_t position_begin = 0;   ///< first sample position trained, inclusive
  std::int64_t position_end = 0;     ///< one past the last sample position trained
  UpdateKind update = UpdateKind::kApplied;
  double eval_loss = 0;              ///< held-out loss after this step; valid if has_eval
  bool has_eval = false;
  double seconds = 0;                ///< wall time of the step on the reporting rank; not compared
};

/// A box of a logical tensor: offset and extent for each dim.
struct Box {
  std::vector<std::int64_t> offset;
  std::vector<std::int64_t> extent;
  bool operator==(const Box&) const = default;
};

}  // namespace tenax
