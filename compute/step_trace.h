// What one rank did during a step and when: the actions of its schedule, its collectives, the
// update. Recording costs two readings of the clock and a store; nothing allocates after
// construction. Confined to the engine's thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/pipeline_action.h"

namespace tenax::compute {

enum class TraceKind : std::uint8_t {
  kRecvForward = 0,  ///< the first six are the kinds of actions
  kForward,
  kSendForward,
  kRecvBackward,
  kBackward,
  kSendBackward,
  kData,      ///< reading the microbatches
  kReduce,    ///< sums over replicas, and of tensors that several ranks hold
  kVerdict,   ///< the last exchange before a weight changes
  kUpdate,    ///< AdamW
  kEvaluate,  ///< held-out loss
  kSnapshot,  ///< copy into shared memory, and the wait for a free slot
};
static_assert(static_cast<int>(TraceKind::kSendBackward) ==
              static_cast<int>(ActionKind::kSendBackward));

/// "recv forward", "reduce", ...
std::string_view to_string(TraceKind kind);
/// "pipeline", "compute", "collective" or "other".
std::string_view category_of(TraceKind kind);

struct TraceEvent {
  std::int64_t step = 0;
  std::int32_t microbatch = -1;  ///< within the replica; -1: none
  TraceKind kind{};
  Time begin{};
  Time end{};
};

class StepTrace {
 public:
  /// Keeps at most `capacity` events a step; later ones are dropped.
  StepTrace(const Clock& clock, std::size_t capacity);

  /// Forgets what is kept.
  void begin_step(std::int64_t step);
  std::int64_t step() const { return step_; }
  std::span<const TraceEvent> events() const { return events_; }
  const Clock& clock() const { return clock_; }
  void add(TraceKind kind, std::int32_t microbatch, Time begin);

 private:
  const Clock& clock_;
  std::int64_t step_ = 0;
  std::vector<TraceEvent> events_;
};

/// An event from construction to destruction. `trace` may be null.
class TraceSpan {
 public:
  TraceSpan(StepTrace* trace, TraceKind kind, std::int32_t microbatch = -1)
      : trace_(trace), kind_(kind), microbatch_(microbatch) {
    if (trace_ != nullptr) begin_ = trace_->clock().now();
  }
  ~TraceSpan() {
    if (trace_ != nullptr) trace_->add(kind_, microbatch_, begin_);
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  StepTrace* trace_;
  TraceKind kind_;
  std::int32_t microbatch_;
  Time begin_{};
};

}  // namespace tenax::compute
