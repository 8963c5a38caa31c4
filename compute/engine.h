// One rank's training engine: interprets the pipeline schedule, reduces gradients over the replicas
// in the fixed tree, takes part in the verdict, updates its weights. It decides nothing: which
// step, which samples, which learning rate, and what happens after an error are the caller's.
// Confined to the engine's thread; Communicator::abort ends any call from outside.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/pipeline_action.h"
#include "common/result.h"
#include "common/run_types.h"
#include "compute/adamw.h"
#include "compute/aligned_buffer.h"
#include "compute/communicator.h"
#include "compute/model_options.h"
#include "compute/parameter_groups.h"
#include "compute/stage.h"
#include "compute/step_trace.h"
#include "compute/tree_accumulator.h"
#include "compute/tree_reduce.h"
#include "compute/verdict.h"

namespace tenax::compute {

struct EngineOptions {
  ModelOptions model;
  std::vector<StageSpec> stages;  ///< of all pipeline stages
  BatchShape shape;
  int rank = 0;
  int stage = 0;
  int replica = 0;  ///< index in dp_group
  int world_size = 1;
  std::vector<int> dp_group;               ///< ranks that hold the same stage, in replica order
  std::vector<int> pp_group;               ///< ranks of this replica, in stage order
  std::vector<std::vector<int>> replicas;  ///< pp groups of all replicas
  std::vector<MicrobatchRange> ranges;     ///< by replica: global microbatches each computes
  int num_microbatches = 1;                ///< of the global batch
  PipelineSchedule schedule;               ///< for this rank's microbatches
  int num_slots = 1;
  StageSettings settings;
  AdamwOptions adamw;
  std::vector<ParameterGroup> groups;  ///< of tensors with other rules than adamw's
  double clip_norm = 1.0;              ///< 0: no clipping
  StepTrace* trace = nullptr;          ///< records what the engine does; nullptr: nothing
};

/// Inputs of one microbatch; spans into the caller's memory.
struct Microbatch {
  std::span<const std::int32_t> tokens;   ///< (B, T)
  std::span<const std::int32_t> targets;  ///< (B, T), -1 = masked
  bool poison_nan = false;                ///< fault injection: its loss and gradient become NaN
  std::span<const std::int32_t> positions = {};  ///< (B, T) in the documents, or empty
  std::span<const std::int64_t> samples = {};    ///< (B) absolute positions; needed by dropout
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> create(EngineOptions options);

  void initialise(std::uint64_t seed);

  /// Forward and backward of this rank's microbatches (given in order), then the reduction over
  /// replicas. On success the summed gradients of `step` are kept until the next call.
  Status compute_gradients(Communicator& comm, std::span<const Microbatch> microbatches);
  /// What this rank contributes to the verdict of the gradients it keeps.
  VerdictPart verdict_part() const;
  Result<Verdict> exchange_verdict(Communicator& comm, const VerdictPart& part);
  /// Clips by the verdict's norm and updates the weights with the gradients kept. `step` is 1-based
  /// (bias correction).
  void apply_update(double grad_norm, std::int64_t targets, double learning_rate,
                    std::int64_t step);

  /// Held-out loss over `num_microbatches` microbatches, of which this replica computes `mine` (as
  /// even_share gives them). Changes nothing. All ranks get the same number.
  Result<double> evaluate(Communicator& comm, std::span<const Microbatch> mine,
                          const PipelineSchedule& schedule, int num_microbatches);

  /// Everything a peer needs to stand where this rank stands.
  Status send_state(Communicator& comm, int peer);
  Status recv_state(Communicator& comm, int peer);
  /// The same from another engine of this process that holds the same stage, whatever its replica;
  /// kInvalidArgument if it holds another.
  Status take_state(Engine& other);

  const std::vector<StageParameter>& parameters() const { return stage_->parameters(); }
  std::span<float> values() { return stage_->values(); }
  std::span<float> adam_m() { return m_.span(); }
  std::span<float> adam_v() { return v_.span(); }
  const EngineOptions& options() const { return options_; }
  /// The kernels in use, for manifests.
  std::string kernel_description() const { return stage_->kernel_description(); }

 private:
  explicit Engine(EngineOptions options);

  /// A boundary tensor on its way to a neighbour stage; the buffer is reused when the transfer has
  /// ended.
  struct Outbox {
    AlignedBuffer buffer;
    std::unique_ptr<Transfer> transfer;
  };
  Result<std::span<float>> free_outbox(std::vector<Outbox>& boxes, std::size_t index);
  Status drain(std::vector<Outbox>& boxes);
  using LossSink = std::function<void(std::int32_t microbatch, const LossSum& loss)>;
  Status run_schedule(Communicator& comm, const PipelineSchedule& schedule,
                      std::span<const Microbatch> microbatches, bool train,
                      const LossSink& on_loss);
  Status combine_tied_embedding(Communicator& comm);

  int previous() const { return options_.pp_group[options_.stage - 1]; }
  int next() const { return options_.pp_group[options_.stage + 1]; }

  EngineOptions options_;
  std::unique_ptr<Stage> stage_;
  AlignedBuffer m_;
  AlignedBuffer v_;
  AlignedBuffer reduced_;  ///< summed gradients, layout of the gradient buffer
  AlignedBuffer tied_;     ///< the other part of a tied embedding's gradient
  AlignedBuffer inbox_forward_;
  AlignedBuffer inbox_backward_;
  std::vector<Outbox> forward_boxes_;
  std::vector<Outbox> backward_boxes_;
  std::unique_ptr<TreeAccumulator> accumulator_;
  std::unique_ptr<TreeReducer> reducer_;
  std::unique_ptr<VerdictExchange> verdicts_;
  std::vector<UpdateRule> rules_;  ///< by parameter
  std::vector<std::size_t> parts_;
  std::vector<double> loss_sums_;
  std::vector<std::int64_t> target_counts_;
};

}  // namespace tenax::compute
