#include "compute/cuda_host_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "common/check.h"
#include "compute/microbatch_tree.h"

namespace tenax::compute {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace

Result<std::unique_ptr<Stage>> CudaHostStage::create(std::shared_ptr<CudaDevice> device,
                                                     const ModelOptions& options,
                                                     const StageSpec& spec, const BatchShape& shape,
                                                     int num_slots, const StageSettings& settings) {
  if (spec.tensor.size > 1)
    return make_error(ErrorCode::kUnsupported,
                      "a stage on a GPU: tensor parallelism is built for the CPU only");
  std::unique_ptr<CudaHostStage> stage(new CudaHostStage);
  stage->device_ = device;
  TENAX_TRY(stage->inner_,
            CudaStage::create(std::move(device), options, spec, shape, num_slots, settings));
  TENAX_TRY(stage->gradient_, stage->device_->allocate(stage->inner_->gradient_size()));
  const std::size_t num_values = stage->inner_->values().size();
  try {
    stage->arrived_ = AlignedBuffer(stage->inner_->gradient_size());
    if (settings.values.empty()) stage->own_values_ = AlignedBuffer(num_values);
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoSpace,
                      fmt::format("a stage on a GPU: the host has no memory for the weights and a "
                                  "gradient of {} floats",
                                  num_values));
  }
  stage->values_ = settings.values.empty() ? stage->own_values_.span() : settings.values;
  TENAX_CHECK(stage->values_.size() == num_values);
  return std::unique_ptr<Stage>(std::move(stage));
}

void CudaHostStage::initialise(std::uint64_t seed) {
  for (const StageParameter& p : parameters())
    initial_values(p.spec, seed, 0,
                   values_.subspan(static_cast<std::size_t>(p.offset),
                                   static_cast<std::size_t>(p.spec.num_elements())));
  weights_are_old_ = true;
}

void CudaHostStage::upload() {
  if (!std::exchange(weights_are_old_, false)) return;
  device_->write(values_, inner_->values());
  inner_->values_changed();
}

void CudaHostStage::check() {
  if (status_) status_ = device_->status();
}

void CudaHostStage::forward(int slot, const StageBatch& batch, std::span<const float> input,
                            std::span<float> output) {
  upload();
  inner_->forward(slot, batch, input, output);
  if (output.empty()) return;
  check();
  if (!status_) std::ranges::fill(output, kNan);
}

void CudaHostStage::run_backward(int slot, std::span<const float> output_grad,
                                 std::span<float> input_grad, std::span<float> gradient,
                                 [[maybe_unused]] BackwardWatcher* watcher) {
  TENAX_CHECK(gradient.size() == gradient_size());
  device_->zero(gradient_.span());
  inner_->backward(slot, output_grad, input_grad, gradient_.span());
  device_->read(gradient_.span(), arrived_.span());
  check();
  if (!status_) {
    std::ranges::fill(gradient, kNan);
    std::ranges::fill(input_grad, kNan);
    return;
  }
  add_floats(gradient.data(), arrived_.data(), gradient.data(), gradient.size());
}

LossSum CudaHostStage::loss(int slot) const {
  LossSum sum = inner_->loss(slot);
  if (!status_) sum.sum = std::numeric_limits<double>::quiet_NaN();
  return sum;
}

LossSum CudaHostStage::evaluate(const StageBatch& batch, std::span<const float> input,
                                std::span<float> output, std::span<double> sample_losses) {
  upload();
  LossSum sum = inner_->evaluate(batch, input, output, sample_losses);
  check();
  if (!status_) {
    sum.sum = std::numeric_limits<double>::quiet_NaN();
    std::ranges::fill(output, kNan);
  }
  return sum;
}

void CudaHostStage::next_token_logits(std::span<const std::int32_t> tokens,
                                      std::span<float> logits) {
  upload();
  inner_->next_token_logits(tokens, logits);
  check();
  if (!status_) std::ranges::fill(logits, kNan);
}

}  // namespace tenax::compute
