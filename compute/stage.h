// One pipeline stage of a decoder: some consecutive layers, with the embedding at the first stage
// and the head (final norm, logits, loss) at the last. On the CPU (compute/cpu/cpu_stage.h), the
// reference that other devices are held against, or on a GPU (compute/cuda_stage.h).
//
// Numerics of the CPU: fp32 storage and sums, factors of products in fp32 or bfloat16, loss sums in
// double. Every number depends only on values, inputs and the instruction set of the kernels, never
// on the split into stages, the slot or the recompute mode. Not thread safe: one engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "compute/cpu/isa.h"
#include "compute/device.h"
#include "compute/dropout.h"
#include "compute/model_options.h"
#include "compute/parameters.h"
#include "compute/precision.h"
#include "compute/tensor_part.h"

namespace tenax::compute {

class CudaDevice;
class StepTrace;
class TensorGroup;

/// Layers [first_layer, end_layer) of the model and which of its ends; of their matrices one part.
struct StageSpec {
  int first_layer = 0;
  int end_layer = 0;
  bool has_embedding = true;
  bool has_head = true;
  TensorPart tensor = {};
};

/// The stage that holds the whole model.
StageSpec whole_model(const ModelOptions& options);

struct BatchShape {
  int microbatch_size = 1;  ///< B
  int sequence_length = 1;  ///< T
};

/// What backward keeps from forward.
enum class Recompute : std::uint8_t {
  kNone,       ///< all activations
  kSelective,  ///< all but what is cheap to make again: outputs of norms and of the activation
  kFull,       ///< only each layer's input; the layer runs again in backward, with equal bits
};

struct StageSettings {
  cpu::Isa isa = cpu::best_isa();
  Recompute recompute = Recompute::kNone;
  int num_threads =
      1;  ///< that compute, the caller's included; the bits are the same for any number
  /// Compute on this GPU; null: on the CPU. What only the CPU has is ignored then.
  std::shared_ptr<CudaDevice> cuda = nullptr;
  Precision precision = Precision::kFp32;
  DropoutRates dropout = {};            ///< in training; evaluation drops nothing
  std::uint64_t dropout_seed = 0;       ///< of its masks
  TensorGroup* tensor_group = nullptr;  ///< with tensor parallelism; outlives the stage
  StepTrace* trace = nullptr;           ///< records kernels; outlives the stage
  /// Where the values lie on the stage's device, 64-byte aligned and as long as the plan says;
  /// empty: memory of the stage's own.
  std::span<float> values = {};
};

/// One microbatch as a stage reads it; spans into the caller's memory.
struct StageBatch {
  std::span<const std::int32_t> tokens = {};   ///< (B, T); used by the embedding
  std::span<const std::int32_t> targets = {};  ///< (B, T), -1 = masked; used by the head
  /// (B, T): each token's place in its document, counted from 0 at the document's or the sample's
  /// start. Attention stays inside a document. Empty: every sample is one document.
  std::span<const std::int32_t> positions = {};
  /// (B): absolute positions of the samples; needed by training with dropout, else may be empty.
  std::span<const std::int64_t> samples = {};
};

/// Aborts unless positions (StageBatch) are empty, or those of all tokens of `shape` and each 0 or
/// one more than the last.
void check_positions(std::span<const std::int32_t> positions, const BatchShape& shape);

/// Which contribution to a tensor's gradient a region of the gradient buffer holds.
enum class GradientPartKind : std::uint8_t {
  kWhole,
  kEmbeddingInput,   ///< of the tied token embedding: through the lookup
  kEmbeddingOutput,  ///< of the tied token embedding: through the logits
};

struct GradientPart {
  GradientPartKind kind = GradientPartKind::kWhole;
  std::int64_t offset = 0;  ///< in floats, in the flat gradient buffer; as long as the tensor
};

/// A tensor that this stage holds, or with tensor parallelism its part of one. Offsets are
/// multiples of 16 floats.
struct StageParameter {
  ParameterSpec spec;       ///< of the whole tensor
  HeldPart held;            ///< row-major at `offset`; behind it zeros up to `size`
  std::int64_t offset = 0;  ///< in floats, in values()
  std::int64_t size = 0;    ///< in floats
  /// One part; two (input, output) for the tied token embedding where one stage has both ends. The
  /// first part lies at `offset` of the gradient buffer too. The tensor's gradient is input part +
  /// output part, in this order.
  std::vector<GradientPart> gradients;
};

/// Sums over the unmasked targets of one microbatch; nothing is divided.
struct LossSum {
  double sum = 0;            ///< cross-entropy, nats
  double z_sum = 0;          ///< of the z-loss term, already times its coefficient
  std::int64_t targets = 0;  ///< how many
};

/// Bytes of a stage, known before anything is allocated.
struct StageMemory {
  std::int64_t values = 0;
  std::int64_t gradient = 0;  ///< one flat gradient buffer (owned by the caller)
  std::int64_t slot = 0;      ///< activations of one slot
  std::int64_t workspace = 0;
  std::int64_t total(int num_slots) const {
    return values + gradient + num_slots * slot + workspace;
  }
};

/// kInvalidArgument with every problem when options, spec or shape are impossible.
Result<StageMemory> plan_stage_memory(const ModelOptions& options, const StageSpec& spec,
                                      const BatchShape& shape, const StageSettings& settings = {});

/// Learns during a backward which gradients it has ended with.
class BackwardWatcher {
 public:
  virtual ~BackwardWatcher() = default;
  /// Of StageLayout::backward_order, nothing is added any more to what belongs to `part` or an
  /// earlier one. Called in ascending order; parts may be passed over.
  virtual void part_done(int part) = 0;
};

class Stage {
 public:
  /// Allocates values, workspace and `num_slots` activation slots (0 for evaluation only); nothing
  /// is allocated later. kInvalidArgument as plan_stage_memory; kNoSpace when the machine has not
  /// enough memory.
  static Result<std::unique_ptr<Stage>> create(const ModelOptions& options, const StageSpec& spec,
                                               const BatchShape& shape, int num_slots,
                                               const StageSettings& settings = {});
  virtual ~Stage() = default;

  virtual const std::vector<StageParameter>& parameters() const = 0;
  /// Where values() and the gradients given to backward() lie. After an error of it the stage is of
  /// no further use.
  virtual std::shared_ptr<Device> device() const = 0;
  /// All parameters on the device, flat, 64-byte aligned; gaps between tensors are zero and stay
  /// so. After they were changed from outside, values_changed() before the next forward().
  virtual std::span<float> values() = 0;
  /// Makes what the stage derives from values(), such as copies of another type.
  virtual void values_changed() {}
  /// A step, another try of one or an evaluation begins: what an aborted step left in the slots is
  /// forgotten.
  virtual void begin_step() {}
  /// The first fault of the device that computes; kDeviceLost: only a new process helps. After it
  /// losses and gradients are NaN.
  virtual Status status() const { return {}; }
  /// From now on boundary tensors that are given lie on the device; else on the host.
  virtual void take_boundaries_on_device(bool on_device) = 0;
  /// Floats of a gradient buffer for backward().
  virtual std::size_t gradient_size() const = 0;
  /// Floats of a boundary tensor (R, C): what input, output and their gradients hold. R: this
  /// rank's rows of a microbatch (token_rows()), B T where no other shares the stage.
  virtual std::size_t boundary_size() const = 0;
  virtual StageMemory memory() const = 0;
  /// The kernels in use, for manifests: "cpu gemm avx512 k256".
  virtual std::string kernel_description() const = 0;

  /// Writes every parameter's initial value: initial_values(spec, seed).
  virtual void initialise(std::uint64_t seed) = 0;

  /// Runs the layers and keeps in `slot` what backward needs (the batch is copied). input (R, C):
  /// empty at the embedding. output (R, C): overwritten; empty at the head. The head computes
  /// logits and loss in backward(), where each chunk of logits is made only once.
  virtual void forward(int slot, const StageBatch& batch, std::span<const float> input,
                       std::span<float> output) = 0;

  /// Writes the gradient of the plain sum of losses over the microbatch's targets into `gradient`
  /// (gradient_size() floats on the device, overwritten). output_grad (R, C): empty at the head.
  /// input_grad (R, C): overwritten; empty at the embedding. Tensors that this microbatch does
  /// not touch get zeros. The slot is free afterwards; loss(slot) stays readable until its next
  /// use.
  void backward(int slot, std::span<const float> output_grad, std::span<float> input_grad,
                std::span<float> gradient, BackwardWatcher* watcher = nullptr) {
    run_backward(slot, output_grad, input_grad, gradient, watcher);
  }

  /// At the head, after backward(slot).
  virtual LossSum loss(int slot) const = 0;
  /// At the head, after backward(slot): cross-entropy sum of each of the B samples.
  virtual std::span<const double> sample_losses(int slot) const = 0;

  /// forward() without a slot and without backward. At the head returns the loss, else zeros;
  /// `sample_losses` (B or empty) receives the sums of the samples.
  virtual LossSum evaluate(const StageBatch& batch, std::span<const float> input,
                           std::span<float> output, std::span<double> sample_losses = {}) = 0;

  /// Logits after the last of `tokens` (1 to T of them, one sequence) into `logits` (V). Only where
  /// one stage is the whole model. Computes the sequence anew each time.
  virtual void next_token_logits(std::span<const std::int32_t> tokens, std::span<float> logits) = 0;

 protected:
  /// backward(); a stage that does not know when a gradient is final need not call the watcher.
  virtual void run_backward(int slot, std::span<const float> output_grad,
                            std::span<float> input_grad, std::span<float> gradient,
                            BackwardWatcher* watcher) = 0;
};

}  // namespace tenax::compute
