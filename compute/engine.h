// One rank's training engine: interprets the pipeline schedule, reduces gradients over the replicas
// in the fixed tree, takes part in the verdict, updates its weights. It decides nothing: which
// step, which samples, which learning rate, and what happens after an error are the caller's.
//
// Weights, moments, gradients and their sums lie on the stage's device (compute/device.h). On a GPU
// the host sees of a step the losses and the partial sums of the norm, and what crosses to ranks
// whose GPUs it does not reach: tensors between stages, gradients, weights that others updated.
// Confined to the engine's thread; Communicator::abort ends any call from outside.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/hash.h"
#include "common/pipeline_action.h"
#include "common/result.h"
#include "common/run_types.h"
#include "compute/adamw.h"
#include "compute/aligned_buffer.h"
#include "compute/communicator.h"
#include "compute/device.h"
#include "compute/device_peers.h"
#include "compute/device_tree_reduce.h"
#include "compute/model_options.h"
#include "compute/optimizer_shards.h"
#include "compute/parameter_groups.h"
#include "compute/stage.h"
#include "compute/stage_layout.h"
#include "compute/staging.h"
#include "compute/step_trace.h"
#include "compute/tensor_group.h"
#include "compute/tree_accumulator.h"
#include "compute/tree_reduce.h"
#include "compute/verdict.h"

namespace tenax::compute {

/// Whether gradients travel between replicas while the last backward is computed.
enum class Overlap : std::uint8_t { kOff, kOn };

struct EngineOptions {
  ModelOptions model;
  /// Of all virtual stages: pp_group.size() times the chunks of a rank. Chunk c of the rank of
  /// `stage` is virtual stage c * pp_group.size() + stage.
  std::vector<StageSpec> stages;
  BatchShape shape;
  int rank = 0;
  int stage = 0;
  int replica = 0;  ///< index in dp_group
  int world_size = 1;
  std::vector<int> dp_group;  ///< ranks that hold the same stage, in replica order
  std::vector<int> pp_group;  ///< ranks of this replica and part of the matrices, in stage order
  std::vector<int> tp_group;  ///< ranks that share this stage's matrices; empty: this one alone
  int tensor_rank = 0;        ///< index in tp_group
  /// pp groups of all replicas, of the ranks with the first part of the matrices.
  std::vector<std::vector<int>> replicas;
  /// By stage: the tp group of replica 0. Empty: replicas.front() alone.
  std::vector<std::vector<int>> tensor_groups;
  std::vector<MicrobatchRange> ranges;  ///< by replica: global microbatches each computes
  int num_microbatches = 1;             ///< of the global batch
  PipelineSchedule schedule;            ///< for this rank's microbatches
  int num_outboxes = 2;  ///< boundary tensors on their way, for each chunk and direction
  /// ZeRO stage. 1: each replica keeps AdamW's moments of its share alone, reduces the gradients of
  /// it and updates its weights (optimizer_shards.h); the bits are those of 0.
  int zero = 0;
  Overlap overlap = Overlap::kOn;      ///< the bits are the same
  std::size_t bucket_bytes = 1 << 20;  ///< of gradients that are reduced at once, at least
  StageSettings settings;
  AdamwOptions adamw;
  std::vector<ParameterGroup> groups;  ///< of tensors with other rules than adamw's
  StepTrace* trace = nullptr;          ///< records what the engine does; nullptr: nothing
};

/// Inputs of one microbatch; spans into the caller's memory.
struct Microbatch {
  std::span<const std::int32_t> tokens;   ///< (B, T)
  std::span<const std::int32_t> targets;  ///< (B, T), -1 = masked
  bool poison_nan = false;                ///< fault injection: its loss and gradient become NaN
  std::uint32_t set_gradient_bits = 0;    ///< fault injection: set in one of its gradients
  std::span<const std::int32_t> positions = {};  ///< (B, T) in the documents, or empty
  std::span<const std::int64_t> samples = {};    ///< (B) absolute positions; needed by dropout
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> create(EngineOptions options);

  void initialise(std::uint64_t seed);

  /// The microbatches of a step and this rank's way through its own.
  struct Batch {
    std::vector<MicrobatchRange> ranges;  ///< by replica
    int num_microbatches = 1;
    PipelineSchedule schedule;
  };
  /// From the next step on: no replica computes more than at create(). Gradients that are kept
  /// stay.
  Status set_batch(Batch batch);

  /// From now on what ranks add up or share goes from GPU to GPU, and with neighbours what stages
  /// send each other; null: through the hosts' memory. The bits are the same. Called by all ranks
  /// or none; both outlive the generation's calls. kNoSpace.
  Status use(DevicePeers* peers, const NeighbourPeers& neighbours = {});

  /// Forward and backward of this rank's microbatches (given in order), then the reduction over
  /// replicas. On success the summed gradients of `step` are kept until the next call.
  Status compute_gradients(Communicator& comm, std::span<const Microbatch> microbatches);
  /// What this rank contributes to the verdict of the gradients it keeps.
  VerdictPart verdict_part() const;
  /// At the head, of the first tensor-parallel rank: cross-entropy sums of the samples of the
  /// newest compute_gradients(), microbatch by microbatch in order; empty elsewhere.
  std::span<const double> sample_losses() const { return sample_losses_; }
  Result<Verdict> exchange_verdict(Communicator& comm, const VerdictPart& part);
  /// Of what this rank alone computed for the newest compute_gradients(): its losses and its
  /// gradients before they met those of other replicas. One pass over them; for a step that is
  /// computed twice.
  Result<Hash128> own_gradient_hash();
  /// Updates the weights of moments() with the gradients kept, of norm `grad_norm`, scaled down to
  /// `clip_norm` if that is smaller (0: no limit). `step` is 1-based (bias correction). With ZeRO
  /// the other weights are the replicas' to update: share_weights() follows.
  struct Update {
    double grad_norm = 0;
    double clip_norm = 0;
    std::int64_t targets = 0;
    double learning_rate = 0;
    std::int64_t step = 1;
  };
  void apply_update(const Update& update);
  /// With ZeRO: every replica gets the weights that the others updated. May be repeated.
  Status share_weights(Communicator& comm);

  /// Held-out loss over `num_microbatches` microbatches, of which this replica computes `mine` (as
  /// even_share gives them). Changes nothing. All ranks get the same number.
  Result<double> evaluate(Communicator& comm, std::span<const Microbatch> mine,
                          const PipelineSchedule& schedule, int num_microbatches);

  /// Everything a peer needs to stand where this rank stands: weights, then the first and second
  /// moments, on the device.
  std::array<std::span<float>, 3> state() { return {values(), adam_m(), adam_v()}; }
  std::size_t state_size() { return values().size() + adam_m().size() + adam_v().size(); }
  /// Begins a copy of state(), one after the other, into the host's memory. On a GPU it goes on
  /// beside the next step's forward and backward; an update waits for it. True once the copy is
  /// whole, else finish_reading() makes it so. kDeviceLost.
  Result<bool> begin_reading(std::span<float> host);
  Status finish_reading();
  /// The host's memory where a restore puts state(): the buffers themselves, or a copy of them that
  /// store() brings to the device.
  struct HostState {
    std::array<std::span<float>, 3> parts;
    std::array<AlignedBuffer, 3> memory;
  };
  Result<HostState> host_state();
  Status store(const HostState& state);
  /// hash128 of the floats of a buffer on the device. One pass.
  Result<Hash128> hash_of(std::span<const float> buffer);
  Status send_state(Communicator& comm, int peer);
  Status recv_state(Communicator& comm, int peer);
  /// The same from another engine of this process that holds the same stage, whatever its replica;
  /// kInvalidArgument if it holds another.
  Status take_state(Engine& other);

  /// Of all chunks; offsets are those in values() and in one flat buffer of gradients.
  const std::vector<StageParameter>& parameters() const { return parameters_; }
  Device& device() { return *device_; }
  /// On the device, as are the moments.
  std::span<float> values() { return values_.span(); }
  std::span<float> adam_m() { return m_.span(); }
  std::span<float> adam_v() { return v_.span(); }
  /// Which elements adam_m() and adam_v() hold, and where.
  const std::vector<MomentPiece>& moments() const {
    return shards_.pieces[options_.zero > 0 ? static_cast<std::size_t>(options_.replica) : 0];
  }
  const EngineOptions& options() const { return options_; }
  /// The kernels in use, for manifests.
  std::string kernel_description() const { return chunks_.front().stage->kernel_description(); }

 private:
  explicit Engine(EngineOptions options);
  class GradientSettler;

  /// Room for a boundary tensor, on the host or, where neighbours are linked, on the device.
  struct Boundary {
    AlignedBuffer on_host;
    DeviceBuffer on_device;
  };
  /// A boundary tensor on its way to a neighbour stage; the buffer is reused when the transfer has
  /// ended.
  struct Outbox {
    Boundary buffer;
    std::unique_ptr<Transfer> transfer = nullptr;
    DevicePeers* link = nullptr;  ///< that it goes through
  };
  /// Consecutive layers that run as one virtual stage.
  struct Chunk {
    std::size_t virtual_stage = 0;
    std::size_t first_parameter = 0;
    std::size_t values_base = 0;  ///< of its tensors in the rank's flat buffers
    std::size_t gradient_base = 0;
    std::unique_ptr<Stage> stage;
    std::unique_ptr<TreeAccumulator> accumulator;
    std::vector<GradientExtent> backward_order;
    std::vector<TreeReduction> reductions;  ///< of its buckets, in the order of a backward
    std::vector<int> last_parts;            ///< of the backward, by reduction: it may start then
    std::size_t num_started = 0;            ///< reductions of this step
    Boundary inbox_forward;
    Boundary inbox_backward;
    std::vector<Outbox> forward_boxes;
    std::vector<Outbox> backward_boxes;
  };
  /// What one call of the device updates.
  struct UpdateCall {
    int block = -1;   ///< a layer; -1: embedding and head, or on a GPU all
    UpdateRule rule;  ///< its decay is that of the ranges that have one
    std::vector<AdamwRange> ranges;
  };
  Status agree_on_batch();
  Status build_chunks();
  Status build_buffers();
  void plan_updates();
  Status build_accumulator(Chunk& chunk);
  void adopt_parameters(const Chunk& chunk);
  bool keeps_sample_losses() const {
    return spec(chunks_.back()).has_head && options_.tensor_rank == 0;
  }
  const StageSpec& spec(const Chunk& chunk) const { return options_.stages[chunk.virtual_stage]; }

  std::span<float> span_of(const Boundary& boundary) const {
    return neighbours_.any() ? boundary.on_device.span() : boundary.on_host.span();
  }
  Status receive(Communicator& comm, DevicePeers* link, int peer, std::uint64_t tag,
                 const Boundary& inbox);
  Status send(Communicator& comm, DevicePeers* link, int peer, std::uint64_t tag, Outbox& box);
  static Status wait_for(Outbox& box);
  Result<std::span<float>> free_outbox(std::vector<Outbox>& boxes, std::size_t index);
  Status drain(std::vector<Outbox>& boxes);
  using LossSink = std::function<void(std::int32_t microbatch, const LossSum& loss)>;
  Status run_schedule(Communicator& comm, const PipelineSchedule& schedule,
                      std::span<const Microbatch> microbatches, bool train,
                      const LossSink& on_loss);
  Status forward(Chunk& chunk, const Action& action, const Microbatch& batch, bool train,
                 const LossSink& on_loss);
  Status backward(Communicator& comm, Chunk& chunk, const Action& action, const Microbatch& batch,
                  const LossSink& on_loss);
  void plan_reductions();
  /// Of buckets that are final once a backward has done `part`.
  Status start_reductions(Communicator& comm, Chunk& chunk, int part);
  Status reduce_gradients(Communicator& comm);
  Status reduce_through_host(Communicator& comm);
  Status combine_tied_embedding(Communicator& comm);
  Status combine_partial_gradients(Communicator& comm);
  /// Over members [first, end) of the tensor group.
  Status sum_over_ranks(Communicator& comm, int first, int end, std::span<float> gradient);
  /// Ranks whose gradients of this tensor are added up.
  static int num_addends(const StageParameter& p) {
    return p.held.end_addend - p.held.first_addend;
  }
  Status sum_squares(Communicator& comm);
  std::span<float> gradients_of(const Chunk& chunk) {
    return reduced_.span().subspan(chunk.gradient_base, chunk.stage->gradient_size());
  }
  /// Gradients of replicas, from GPU to GPU.
  bool sums_go_between_devices() const { return peers_ != nullptr && options_.dp_group.size() > 1; }
  Group replicas() const { return {options_.dp_group, options_.replica}; }

  int previous() const { return neighbour(static_cast<int>(options_.pp_group.size()) - 1); }
  int next() const { return neighbour(1); }
  int neighbour(int distance) const {
    return options_
        .pp_group[static_cast<std::size_t>(options_.stage + distance) % options_.pp_group.size()];
  }

  EngineOptions options_;
  std::shared_ptr<Device> device_;
  Staging staging_;
  std::unique_ptr<TensorGroup> tensor_group_;  ///< nullptr without tensor parallelism
  std::vector<Chunk> chunks_;
  std::vector<StageParameter> parameters_;  ///< of all chunks, in the model's order
  DeviceBuffer values_;
  DeviceBuffer m_;
  DeviceBuffer v_;
  DeviceBuffer reduced_;  ///< summed gradients, layout of the gradient buffer
  /// Of combine_partial_gradients(): room for the tensors that every rank has whole, which are
  /// small (norms), so that they go as one.
  DeviceBuffer partial_;
  std::unique_ptr<OrderedReducer> partial_sums_;
  AlignedBuffer tied_;  ///< the other part of a tied embedding's gradient, on the host
  std::unique_ptr<TreeReducer> reducer_;
  DevicePeers* peers_ = nullptr;
  NeighbourPeers neighbours_;
  std::unique_ptr<DeviceTreeReducer> device_reducer_;  ///< where there are peers_
  std::unique_ptr<VerdictExchange> verdicts_;
  std::vector<UpdateCall> updates_;
  OptimizerShards shards_;
  std::vector<std::size_t> part_bytes_;   ///< of an all-gather
  std::vector<std::size_t> first_chunk_;  ///< norm chunks before each tensor, and of all
  std::vector<double> chunk_squares_;     ///< of the gradients kept, by norm chunk
  std::vector<NormRange> norm_ranges_;    ///< of moments(), in reduced_
  std::vector<double> square_sums_;       ///< the same by tensor
  std::vector<double> loss_sums_;
  std::vector<std::int64_t> target_counts_;
  std::vector<double> sample_losses_;
};

}  // namespace tenax::compute
