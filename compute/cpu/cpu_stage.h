// The stage on the CPU: owns values, activation slots and workspace, and runs embedding, layers and
// head in order. Not thread safe: one engine thread.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/cpu/block.h"
#include "compute/cpu/stage_memory.h"
#include "compute/stage.h"
#include "compute/stage_layout.h"

namespace tenax::compute::cpu {

class CpuStage final : public Stage {
 public:
  /// Arguments have no stage_problems(). Throws std::bad_alloc.
  CpuStage(const ModelOptions& options, const StageSpec& spec, const BatchShape& shape,
           int num_slots, const StageSettings& settings);
  CpuStage(const CpuStage&) = delete;
  CpuStage& operator=(const CpuStage&) = delete;

  const std::vector<StageParameter>& parameters() const override { return layout_.parameters; }
  std::shared_ptr<Device> device() const override { return device_; }
  std::span<float> values() override { return values_; }
  std::size_t gradient_size() const override {
    return static_cast<std::size_t>(layout_.gradient_size);
  }
  std::size_t boundary_size() const override;
  void take_boundaries_on_device(bool) override {}  // it is the host
  StageMemory memory() const override;
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
  const float* value(std::int64_t offset) const;
  /// Residual stream of the batch's tokens into `out`; `raw` takes what the embedding norm reads.
  void embed(const BatchShape& shape, const StageBatch& batch, float* raw, float* mean, float* rstd,
             float* out);
  void drop_embedding(std::span<const std::int64_t> samples, float* x);
  /// In the model, of a layer of this stage.
  std::int32_t layer_number(std::size_t layer) const {
    return spec_.first_layer + static_cast<std::int32_t>(layer);
  }
  void embed_backward(const StageSlot& slot, float* grad, float* gradient);
  /// Embedding and layers without a slot; returns the residual stream, in the workspace.
  float* run_layers(const BatchShape& shape, const StageBatch& batch, std::span<const float> input);
  /// The final norm of x (R, C), or x itself where the model has none, of all rows.
  const float* final_norm(const BatchShape& shape, const float* x);
  /// This rank's rows of the residual stream.
  TokenRows rows_of(const BatchShape& shape) const {
    return token_rows(static_cast<std::int64_t>(num_tokens(shape)), spec_.tensor);
  }
  float* own_rows(const BatchShape& shape, float* all) const {
    return all + rows_of(shape).begin * options_.width;
  }
  std::int64_t own_size(const BatchShape& shape) const {
    return rows_of(shape).size() * options_.width;
  }
  /// All ranks of the tensor group get the rows of `all` (B, T, C) that each has.
  void gather(const BatchShape& shape, float* all);
  NormCall norm_call(const BatchShape& shape, const NormOffsets& at, const float* x, float* mean,
                     float* rstd) const;
  StageSlot& slot_at(int slot);
  /// Extents of the gradient that backward adds to; what lies between is written by one product.
  std::vector<std::pair<std::int64_t, std::int64_t>> extents_added_to() const;
  void check_tokens(std::span<const std::int32_t> tokens, std::int32_t lowest) const;

  /// Of this rank's part of the vocabulary.
  std::int64_t first_token() const { return options_.padded_vocabulary_size * spec_.tensor.index; }
  /// A row of the embedding, or nullptr if it is another rank's.
  const float* token_row(std::int32_t token) const;

  ModelOptions model_;    ///< the whole model
  ModelOptions options_;  ///< this rank's part of it
  StageSpec spec_;
  BatchShape shape_;
  StageSettings settings_;
  StageLayout layout_;
  Kernels kernels_;
  std::shared_ptr<Device> device_ = std::make_shared<HostDevice>();
  AlignedBuffer own_values_;
  std::span<float> values_;
  AlignedBuffer tables_;
  AlignedBuffer workspace_buffer_;
  StageWorkspace workspace_;
  AlignedBuffer slot_buffer_;
  std::vector<StageSlot> slots_;
  std::unique_ptr<BlockContext> context_;
  StageDropout dropout_;
  std::vector<std::pair<std::int64_t, std::int64_t>> added_to_;  ///< gradients that start from 0
};

}  // namespace tenax::compute::cpu
