// The pipeline schedule of one stage as data. scheduler/ makes the list, compute/ interprets it,
// the dashboard draws it.
#pragma once

#include <cstdint>
#include <vector>

namespace tenax {

enum class ActionKind : std::uint8_t {
  kRecvForward,   ///< receive the activations of `microbatch` from the previous virtual stage
  kForward,       ///< run the stage forward on `microbatch`
  kSendForward,   ///< send its activations to the next stage
  kRecvBackward,  ///< receive the gradient of this stage's output from the next stage
  kBackward,      ///< run the stage backward on `microbatch`
  kSendBackward,  ///< send the gradient of this stage's input to the previous stage
};

/// `microbatch` counts within the replica, 0-based. `slot` is the activation buffer it lives in
/// between its forward and its backward; slots are reused as soon as a backward has freed one.
/// `chunk` is the part of the rank's layers that runs, where it has several virtual stages; each
/// chunk has slots of its own.
struct Action {
  ActionKind kind{};
  std::int32_t microbatch = 0;
  std::int32_t slot = 0;
  std::int32_t chunk = 0;

  bool operator==(const Action&) const = default;
};

using PipelineSchedule = std::vector<Action>;

}  // namespace tenax
