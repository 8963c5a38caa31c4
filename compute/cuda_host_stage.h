// A stage on a GPU for an engine whose weights, gradients and optimizer are the host's: weights go
// to the GPU when a step begins, the gradient of each microbatch comes back and is added.
// Everything the engine does with them (reductions, ZeRO, snapshots, replays) is the same as on the
// CPU, at the price of the way there and back: 4 bytes a parameter and step, 4 a parameter and
// microbatch.
//
// A fault of the device is kept: losses and gradients are NaN from then on, so that nothing of it
// reaches a weight, and status() tells. Not thread safe: one engine thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/cuda_stage.h"

namespace tenax::compute {

class CudaHostStage final : public Stage {
 public:
  /// As CudaStage::create(); kUnsupported for tensor parallelism.
  static Result<std::unique_ptr<Stage>> create(std::shared_ptr<CudaDevice> device,
                                               const ModelOptions& options, const StageSpec& spec,
                                               const BatchShape& shape, int num_slots,
                                               const StageSettings& settings);

  const std::vector<StageParameter>& parameters() const override { return inner_->parameters(); }
  std::shared_ptr<Device> device() const override { return host_; }
  std::span<float> values() override { return values_; }
  std::size_t gradient_size() const override { return inner_->gradient_size(); }
  std::size_t boundary_size() const override { return inner_->boundary_size(); }
  StageMemory memory() const override { return inner_->memory(); }
  std::string kernel_description() const override { return inner_->kernel_description(); }
  void initialise(std::uint64_t seed) override;
  void begin_step() override { weights_are_old_ = true; }
  void forward(int slot, const StageBatch& batch, std::span<const float> input,
               std::span<float> output) override;
  LossSum loss(int slot) const override;
  std::span<const double> sample_losses(int slot) const override {
    return inner_->sample_losses(slot);
  }
  LossSum evaluate(const StageBatch& batch, std::span<const float> input, std::span<float> output,
                   std::span<double> sample_losses) override;
  void next_token_logits(std::span<const std::int32_t> tokens, std::span<float> logits) override;
  Status status() const override { return status_; }

 private:
  void run_backward(int slot, std::span<const float> output_grad, std::span<float> input_grad,
                    std::span<float> gradient, BackwardWatcher* watcher) override;
  CudaHostStage() = default;
  /// Brings the weights to the GPU once a step.
  void upload();
  /// Keeps the device's first error.
  void check();

  std::shared_ptr<CudaDevice> device_;
  std::shared_ptr<Device> host_ = std::make_shared<HostDevice>();
  std::unique_ptr<Stage> inner_;
  AlignedBuffer own_values_;
  std::span<float> values_;
  DeviceBuffer gradient_;        ///< of one microbatch, on the GPU
  AlignedBuffer arrived_;        ///< the same on the host
  bool weights_are_old_ = true;  ///< those on the GPU
  Status status_;
};

}  // namespace tenax::compute
