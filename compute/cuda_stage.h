// The stage on a GPU, through the plugin: same models, shapes and meaning as
// compute/cpu/cpu_stage.h. float32, or BF16 with float32 master weights: products read BF16 copies,
// activations are BF16, gradients of parameters, norms' weights and every sum float32
// (docs/numerics.md). Tokens, targets and losses are the host's, as are boundary tensors unless
// take_boundaries_on_device(); values and gradients the device's.
//
// A fault of the device is kept: losses and boundary tensors are NaN from then on, so that nothing
// of it reaches a weight, and status() tells. Not thread safe: one engine thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compute/cuda_block.h"
#include "compute/cuda_device.h"
#include "compute/cuda_stage_memory.h"
#include "compute/stage.h"
#include "compute/stage_layout.h"

namespace tenax::compute {

class CudaStage final : public Stage {
 public:
  /// Arguments have no stage_problems(). kNoSpace with the plan beside what the device has.
  static Result<std::unique_ptr<Stage>> create(std::shared_ptr<CudaDevice> device,
                                               const ModelOptions& options, const StageSpec& spec,
                                               const BatchShape& shape, int num_slots,
                                               const StageSettings& settings);

  ~CudaStage() override;

  const std::vector<StageParameter>& parameters() const override { return layout_.parameters; }
  std::shared_ptr<Device> device() const override { return device_; }
  std::span<float> values() override { return values_; }
  void values_changed() override { device_->refresh_copies(); }
  std::size_t gradient_size() const override {
    return static_cast<std::size_t>(layout_.gradient_size);
  }
  std::size_t boundary_size() const override;
  void take_boundaries_on_device(bool on_device) override { boundaries_on_device_ = on_device; }
  StageMemory memory() const override;
  Status status() const override { return device_->status(); }
  std::string kernel_description() const override;
  void initialise(std::uint64_t seed) override;
  void forward(int slot, const StageBatch& batch, std::span<const float> input,
               std::span<float> output) override;
  LossSum loss(int slot) const override;
  std::span<const double> sample_losses(int slot) const override;
  LossSum evaluate(const StageBatch& batch, std::span<const float> input, std::span<float> output,
                   std::span<double> sample_losses) override;
  void next_token_logits(std::span<const std::int32_t> tokens, std::span<float> logits) override;

 private:
  void run_backward(int slot, std::span<const float> output_grad, std::span<float> input_grad,
                    std::span<float> gradient, BackwardWatcher* watcher) override;
  CudaStage(std::shared_ptr<CudaDevice> device, const ModelOptions& options, const StageSpec& spec,
            const BatchShape& shape, const StageSettings& settings);
  Status allocate(int num_slots);
  void fill_tables();

  /// What the layers read of a batch besides tokens, brought to the device; null where it has none.
  struct Places {
    const std::int32_t* places = nullptr;   // (B, T)
    const std::int64_t* samples = nullptr;  // (B)
  };
  Places bring(std::span<const std::int32_t> positions, std::span<const std::int64_t> samples);
  /// Residual stream of this rank's `tokens` into norm.y; norm.x takes what the embedding norm
  /// reads.
  void embed(const CudaOps& ops, const BatchShape& shape, std::span<const std::int32_t> tokens,
             const std::int32_t* places, const CudaOps::NormCall& norm);
  void embed_backward(const CudaSlot& slot, const Places& at, std::byte* grad, float* gradient);
  /// Rows of the gradient added to those of a table; `positions` receives them by their place in
  /// the sample, or is null.
  void gather_rows(const TokenBuckets& buckets, float scale, const std::byte* grad, float* table,
                   float* positions);
  /// Embedding and layers without a slot; returns the residual stream, in the workspace.
  std::byte* run_layers(const BatchShape& shape, const StageBatch& batch,
                        std::span<const float> input);
  CudaOps::NormCall final_norm_call(const CudaOps& ops, std::byte* x) const;
  /// The final norm of x (R, C), or x itself where the model has none, of all rows.
  std::byte* final_norm(const CudaOps& ops, std::byte* x);
  /// What the head does with the normed stream; `gradient` null: the loss alone.
  struct HeadCall {
    std::byte* x = nullptr;   // (B, T, C)
    std::byte* dx = nullptr;  // (R, C), overwritten
    float* gradient = nullptr;
    std::span<const std::int32_t> targets;
    std::span<double> sample_losses;  ///< (B) or empty
  };
  LossSum head(const HeadCall& call);
  /// The cross-entropy of a chunk whose vocabulary is shared, into `losses` and `z_terms`; with a
  /// gradient the logits become theirs.
  void share_loss(tenax_cuda_cross_entropy chunk, std::span<const std::int32_t> targets,
                  double* losses, double* z_terms);
  /// Logits of `rows` rows of x into the workspace.
  void make_logits(std::byte* x, std::int64_t rows);

  void boundary_in(std::span<const float> given, std::byte* to);
  void boundary_out(const std::byte* from, std::span<float> given);
  /// (R, C), in the workspace.
  std::span<float> boundary() const;
  void check_tokens(std::span<const std::int32_t> tokens, std::int32_t lowest) const;
  template <class T>
  void upload(std::span<const T> host, T* to) {
    device_->queue(device_->plugin().to_device, static_cast<void*>(to),
                   static_cast<const void*>(host.data()),
                   static_cast<std::uint64_t>(host.size_bytes()));
  }
  void fetch(const double* from, std::span<double> host);
  /// Between (rows, C) tensors.
  void cast(const void* from, std::int32_t from_type, void* to, std::int32_t to_type,
            std::int64_t rows);
  bool is_shared() const { return spec_.tensor.size > 1; }
  /// Of this rank's part of the vocabulary.
  std::int64_t first_token() const { return options_.padded_vocabulary_size * spec_.tensor.index; }
  CudaSlot& slot_at(int slot);
  std::byte* weights() const;

  std::shared_ptr<CudaDevice> device_;
  ModelOptions model_;    ///< the whole model
  ModelOptions options_;  ///< this rank's part of it
  StageSpec spec_;
  BatchShape shape_;
  StageSettings settings_;
  StageLayout layout_;
  CudaSizes sizes_;
  std::int32_t type_;
  DeviceBuffer own_values_;
  std::span<float> values_;
  CudaMemory copy_;  ///< of values_ in BF16
  CudaMemory workspace_memory_;
  CudaMemory slot_memory_;
  CudaWorkspace workspace_;
  std::vector<CudaSlot> slots_;
  std::unique_ptr<CudaBlockContext> context_;
  StageDropout dropout_;
  bool boundaries_on_device_ = false;
};

}  // namespace tenax::compute
