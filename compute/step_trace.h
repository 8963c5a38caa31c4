// What one rank did during a step and when: the actions of its schedule, the kernels inside them,
// its transfers and collectives, the update. Recording costs two readings of the clock and a store;
// nothing allocates after construction. Confined to the engine's thread.
#pragma once

#include <cstddef>
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
  kData,          ///< reading the microbatches
  kReduce,        ///< sums of one bucket of gradients over replicas, from its start to its end
  kCombine,       ///< gradients of tensors that several stages or tensor-parallel ranks hold
  kNormSums,      ///< partial sums of the gradient norm
  kVerdict,       ///< the last exchange before a weight changes
  kUpdate,        ///< AdamW
  kShareWeights,  ///< with ZeRO: weights that other replicas updated
  kEvaluate,      ///< held-out loss
  kSnapshot,      ///< copy into shared memory, and the wait for a free slot
  // Inside a layer, an end of the model or the update.
  kEmbedding,
  kNorm,
  kQkvProducts,
  kAttention,
  kOutputProduct,  ///< of attention
  kFfnProducts,
  kActivation,
  kCrossEntropy,  ///< and the products of its logits
  kAdamw,
  kTensorReduce,  ///< partial results of tensor-parallel ranks
  kTensorGather,  ///< what tensor-parallel ranks hold parts of
  // Transfers, from their posting to their end.
  kSend,
  kRecv,
};
inline constexpr TraceKind kLastTraceKind = TraceKind::kRecv;
static_assert(static_cast<int>(TraceKind::kSendBackward) ==
              static_cast<int>(ActionKind::kSendBackward));

/// "recv forward", "reduce", ...
std::string_view to_string(TraceKind kind);
/// "pipeline", "compute", "kernel", "collective", "transfer" or "other".
std::string_view category_of(TraceKind kind);
/// True of kinds that go on while the rank does something else.
bool is_in_background(TraceKind kind);
/// "bucket", "layer", "peer": what an event's index counts; empty: nothing.
std::string_view index_name(TraceKind kind);

struct TraceEvent {
  std::int64_t step = 0;
  std::int32_t microbatch = -1;  ///< within the replica; -1: none
  std::int32_t index = -1;       ///< index_name(kind); -1: none, or an end of the model
  std::uint64_t bytes = 0;       ///< of a transfer
  TraceKind kind{};
  Time begin{};
  Time end{};
};

class StepTrace {
 public:
  /// Keeps at most `capacity` events a step; later ones are dropped, kernels and transfers while
  /// there is still room for a quarter of them.
  StepTrace(const Clock& clock, std::size_t capacity);

  /// Forgets what is kept.
  void begin_step(std::int64_t step);
  std::int64_t step() const { return step_; }
  std::span<const TraceEvent> events() const { return events_; }
  const Clock& clock() const { return clock_; }
  /// An event that ends now, or at event.end if that is set.
  void add(TraceEvent event);

  /// Whether kernels and transfers are recorded from now on.
  void record_details(bool on) { details_ = on; }
  bool takes_details() const { return details_ && events_.size() < detail_capacity_; }

 private:
  const Clock& clock_;
  const std::size_t detail_capacity_;
  bool details_ = true;
  std::int64_t step_ = 0;
  std::vector<TraceEvent> events_;
};

/// An event from construction to destruction. `trace` may be null.
class TraceSpan {
 public:
  TraceSpan(StepTrace* trace, TraceKind kind, std::int32_t microbatch = -1, std::int32_t index = -1)
      : trace_(trace), kind_(kind), microbatch_(microbatch), index_(index) {
    if (trace_ != nullptr) begin_ = trace_->clock().now();
  }
  ~TraceSpan() {
    if (trace_ != nullptr) trace_->add({0, microbatch_, index_, 0, kind_, begin_, {}});
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  StepTrace* trace_;
  TraceKind kind_;
  std::int32_t microbatch_;
  std::int32_t index_;
  Time begin_{};
};

/// The same of a kernel: recorded while there is room for details.
class KernelSpan {
 public:
  KernelSpan(StepTrace* trace, TraceKind kind, std::int32_t layer = -1)
      : span_(trace != nullptr && trace->takes_details() ? trace : nullptr, kind, -1, layer) {}

 private:
  TraceSpan span_;
};

}  // namespace tenax::compute
