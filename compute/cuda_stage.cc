#include "compute/cuda_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "compute/aligned_buffer.h"
#include "compute/cpu/attention.h"
#include "compute/cpu/stage_memory.h"

namespace tenax::compute {
namespace {

std::size_t num_tokens(const BatchShape& shape) {
  return static_cast<std::size_t>(shape.microbatch_size) *
         static_cast<std::size_t>(shape.sequence_length);
}

}  // namespace

CudaStage::CudaStage(std::shared_ptr<CudaDevice> device, const ModelOptions& options,
                     const StageSpec& spec, const BatchShape& shape, const StageSettings& settings)
    : device_(std::move(device)),
      model_(resolved(options)),
      options_(local_options(model_, spec.tensor)),
      spec_(spec),
      shape_(shape),
      settings_(settings),
      layout_(lay_out_stage(model_, spec)),
      sizes_(options_, shape, spec.tensor, is_bfloat16(settings) ? 2 : 4),
      type_(is_bfloat16(settings) ? TENAX_CUDA_BF16 : TENAX_CUDA_F32),
      dropout_(stage_dropout(settings.dropout, settings.dropout_seed, spec.first_layer,
                             spec.end_layer)) {
  TENAX_CHECK((settings.tensor_group != nullptr) == (spec.tensor.size > 1));
}

CudaStage::~CudaStage() { device_->forget_copy(copy_.data()); }

Result<std::unique_ptr<Stage>> CudaStage::create(std::shared_ptr<CudaDevice> device,
                                                 const ModelOptions& options, const StageSpec& spec,
                                                 const BatchShape& shape, int num_slots,
                                                 const StageSettings& settings) {
  std::unique_ptr<CudaStage> stage(
      new CudaStage(std::move(device), options, spec, shape, settings));
  if (const Status allocated = stage->allocate(num_slots); !allocated) {
    const StageMemory plan = stage->memory();
    Error error = allocated.error();
    error.message += fmt::format(
        "; the plan: values {} bytes, {} slots of {}, workspace {}, a buffer of "
        "gradients {}",
        plan.values, num_slots, plan.slot, plan.workspace, plan.gradient);
    return error;
  }
  stage->fill_tables();
  TENAX_RETURN_IF_ERROR(stage->device_->status());
  return std::unique_ptr<Stage>(std::move(stage));
}

Status CudaStage::allocate(int num_slots) {
  const auto num_values = static_cast<std::size_t>(layout_.values_size);
  if (settings_.values.empty()) {
    TENAX_TRY(own_values_, device_->allocate(num_values));
  }
  values_ = settings_.values.empty() ? own_values_.span() : settings_.values;
  TENAX_CHECK(values_.size() == num_values);
  if (is_bfloat16(settings_)) {
    TENAX_TRY(copy_,
              device_->allocate_bytes(
                  static_cast<std::uint64_t>(cuda_copy_bytes(layout_, settings_)), "BF16 weights"));
    device_->keep_copy(values_, copy_.data());
  }
  const StageMemory plan = memory();
  const std::int64_t workspace = plan.workspace - cuda_copy_bytes(layout_, settings_);
  TENAX_TRY(workspace_memory_,
            device_->allocate_bytes(static_cast<std::uint64_t>(workspace), "workspace"));
  ByteArena workspace_arena(workspace_memory_.data());
  workspace_.place(workspace_arena, options_, spec_, sizes_, settings_);
  TENAX_TRY(slot_memory_, device_->allocate_bytes(static_cast<std::uint64_t>(plan.slot * num_slots),
                                                  "activations"));
  ByteArena slot_arena(slot_memory_.data());
  slots_.resize(static_cast<std::size_t>(num_slots));
  for (CudaSlot& slot : slots_) {
    slot.place(slot_arena, options_, spec_, sizes_, settings_.recompute);
    if (settings_.recompute == Recompute::kSelective)
      for (CudaLayer& layer : slot.layers) layer.borrow(workspace_.layer);
    slot.samples.resize(settings_.dropout.any() ? static_cast<std::size_t>(shape_.microbatch_size)
                                                : 0);
    slot.tokens.resize(spec_.has_embedding ? num_tokens(shape_) : 0);
    slot.targets.resize(spec_.has_head ? num_tokens(shape_) : 0);
    slot.sample_losses.resize(spec_.has_head ? static_cast<std::size_t>(shape_.microbatch_size)
                                             : 0);
  }
  context_ = std::make_unique<CudaBlockContext>(
      CudaBlockContext{*device_, options_, workspace_, type_, values_.data(), weights(),
                       TENAX_CUDA_ATTENTION_AUTO, settings_.tensor_group});
  return {};
}

void CudaStage::fill_tables() {
  const std::size_t size = cpu::measure([&](Arena& a) { cpu::PositionTables::place(a, options_); });
  if (size == 0) return;
  const AlignedBuffer host(size);
  Arena arena(host.data());
  const cpu::PositionTables tables = cpu::PositionTables::place(arena, options_);
  tables.fill(options_, options_.num_heads * spec_.tensor.index, model_.num_heads);
  const auto write = [&](const float* from, float* to, std::int64_t n) {
    if (from == nullptr) return;
    const auto count = static_cast<std::size_t>(n);
    device_->write({from, count}, {to, count});
  };
  const std::int64_t rotations = options_.max_sequence_length * (options_.head_dim / 2);
  write(tables.cosine, workspace_.cosine, rotations);
  write(tables.sine, workspace_.sine, rotations);
  write(tables.slopes, workspace_.slopes, options_.num_heads);
}

std::byte* CudaStage::weights() const {
  return is_bfloat16(settings_) ? copy_.data() : reinterpret_cast<std::byte*>(values_.data());
}

std::size_t CudaStage::boundary_size() const {
  return static_cast<std::size_t>(sizes_.own.size() * options_.width);
}

StageMemory CudaStage::memory() const { return plan_cuda_memory(model_, spec_, shape_, settings_); }

std::string CudaStage::kernel_description() const {
  const tenax_cuda_device_info& info = device_->info();
  return fmt::format("cuda {} sm_{}{} driver {} runtime {} {}{}\n{}", info.name, info.major,
                     info.minor, info.driver_version, info.runtime_version,
                     is_bfloat16(settings_) ? "bf16" : "f32",
                     device_->reproducible() ? " reproducible" : "", device_->plans());
}

void CudaStage::initialise(std::uint64_t seed) {
  AlignedBuffer host(static_cast<std::size_t>(layout_.values_size));
  initial_stage_values(layout_, seed, host.span());
  device_->write(host.span(), values_);
  values_changed();
}

CudaSlot& CudaStage::slot_at(int slot) {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)];
}

void CudaStage::check_tokens(std::span<const std::int32_t> tokens, std::int32_t lowest) const {
  for (const std::int32_t token : tokens)
    TENAX_CHECK(token >= lowest && token < model_.vocabulary_size);
}

void CudaStage::fetch(const double* from, std::span<double> host) {
  device_->queue(device_->plugin().to_host, static_cast<void*>(host.data()),
                 static_cast<const void*>(from), static_cast<std::uint64_t>(host.size_bytes()));
}

void CudaStage::cast(const void* from, std::int32_t from_type, void* to, std::int32_t to_type,
                     std::int64_t rows) {
  if (rows == 0) return;
  device_->queue(device_->plugin().run_cast, from, from_type, to, to_type, rows * options_.width);
}

CudaStage::Places CudaStage::bring(std::span<const std::int32_t> positions,
                                   std::span<const std::int64_t> samples) {
  if (!positions.empty()) upload(positions, workspace_.places);
  if (!samples.empty()) upload(samples, workspace_.samples);
  return {positions.empty() ? nullptr : workspace_.places,
          samples.empty() ? nullptr : workspace_.samples};
}

// --- Boundaries: float32 on their way.

std::span<float> CudaStage::boundary() const { return {workspace_.sum, boundary_size()}; }

void CudaStage::boundary_in(std::span<const float> given, std::byte* to) {
  TENAX_CHECK(given.size() == boundary_size());
  if (!boundaries_on_device_) device_->write(given, boundary());
  cast(boundaries_on_device_ ? given.data() : workspace_.sum, TENAX_CUDA_F32, to, type_,
       sizes_.own.size());
}

void CudaStage::boundary_out(const std::byte* from, std::span<float> given) {
  TENAX_CHECK(given.size() == boundary_size());
  cast(from, type_, boundaries_on_device_ ? given.data() : workspace_.sum, TENAX_CUDA_F32,
       sizes_.own.size());
  if (!boundaries_on_device_) device_->read(boundary(), given);
}

// --- Forward and backward

void CudaStage::forward(int slot_index, const StageBatch& batch, std::span<const float> input,
                        std::span<float> output) {
  const std::span<const std::int32_t> tokens = batch.tokens;
  const std::span<const std::int32_t> targets = batch.targets;
  CudaSlot& slot = slot_at(slot_index);
  check_positions(batch.positions, shape_);
  slot.places.assign(batch.positions.begin(), batch.positions.end());
  TENAX_CHECK(slot.samples.empty() || batch.samples.size() == slot.samples.size());
  if (!slot.samples.empty()) std::ranges::copy(batch.samples, slot.samples.begin());
  const Places at = bring(slot.places, slot.samples);
  // Where each layer's output goes: the next one's input, the head's, or on its way to the next
  // stage.
  const auto stream = [&](std::size_t i) {
    return i < slot.inputs.size() ? slot.inputs[i] : workspace_.stream[1];
  };
  values_changed();
  if (spec_.has_head) {
    TENAX_CHECK(targets.size() == slot.targets.size());
    check_tokens(targets, -1);
    std::ranges::copy(targets, slot.targets.begin());
    slot.loss = {};
  }
  if (spec_.has_embedding) {
    TENAX_CHECK(tokens.size() == slot.tokens.size());
    check_tokens(tokens, 0);
    std::ranges::copy(tokens, slot.tokens.begin());
    const CudaOps ops(*context_, shape_);
    embed(
        ops, shape_, tokens, at.places,
        {layout_.embedding_norm, slot.embedded, stream(0), slot.embedded_mean, slot.embedded_rstd});
    if (dropout_.embedding.active()) ops.drop(dropout_.embedding, at.samples, stream(0), stream(0));
  } else {
    boundary_in(input, stream(0));
  }
  for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
    const CudaLayer& kept = slot.layers.empty() ? workspace_.layer : slot.layers[i];
    cuda_block_forward(
        *context_,
        {shape_, layout_.layers[i], slot.inputs[i], kept, at.places, dropout_.of(i), at.samples},
        stream(i + 1));
  }
  if (!spec_.has_head) boundary_out(stream(layout_.layers.size()), output);
}

void CudaStage::run_backward(int slot_index, std::span<const float> output_grad,
                             std::span<float> input_grad, std::span<float> gradient,
                             BackwardWatcher* watcher) {
  CudaSlot& slot = slot_at(slot_index);
  TENAX_CHECK(gradient.size() == gradient_size());
  std::byte* const grad = workspace_.grad;
  const Places at = bring(slot.places, slot.samples);
  device_->zero(gradient);
  if (spec_.has_head) {
    const CudaOps ops(*context_, shape_);
    std::byte* const x = slot.inputs.back();
    slot.loss = head({final_norm(ops, x), grad, gradient.data(), slot.targets, slot.sample_losses});
    if (layout_.final_norm.weight >= 0)
      ops.norm_backward(final_norm_call(ops, x), grad, grad, false, gradient.data());
  } else {
    boundary_in(output_grad, grad);
  }
  const auto done = [&](std::size_t part) {
    if (watcher != nullptr) watcher->part_done(static_cast<int>(part));
  };
  done(0);
  for (std::size_t i = layout_.layers.size(); i-- > 0;) {
    const CudaLayer& kept = slot.layers.empty() ? workspace_.layer : slot.layers[i];
    const CudaBlockCall call{shape_,    layout_.layers[i], slot.inputs[i], kept,
                             at.places, dropout_.of(i),    at.samples};
    if (settings_.recompute == Recompute::kFull)
      cuda_block_forward(*context_, call, workspace_.stream[0]);
    if (settings_.recompute == Recompute::kSelective) cuda_block_recompute(*context_, call);
    cuda_block_backward(*context_, call, grad, gradient.data());
    done(layout_.layers.size() - i);
  }
  if (spec_.has_embedding)
    embed_backward(slot, at, grad, gradient.data());
  else
    boundary_out(grad, input_grad);
  done(layout_.layers.size() + 1);
}

LossSum CudaStage::loss(int slot) const {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)].loss;
}

std::span<const double> CudaStage::sample_losses(int slot) const {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)].sample_losses;
}

std::byte* CudaStage::run_layers(const BatchShape& shape, const StageBatch& batch,
                                 std::span<const float> input) {
  std::byte* x = workspace_.stream[0];
  std::byte* next = workspace_.stream[1];
  values_changed();
  const Places at = bring(batch.positions, {});
  if (spec_.has_embedding) {
    check_tokens(batch.tokens, 0);
    embed(CudaOps(*context_, shape), shape, batch.tokens, at.places,
          {layout_.embedding_norm, workspace_.normed, x, workspace_.mean, workspace_.rstd});
  } else {
    boundary_in(input, x);
  }
  for (const LayerOffsets& layer : layout_.layers) {
    cuda_block_forward(*context_, {shape, layer, x, workspace_.layer, at.places}, next);
    std::swap(x, next);
  }
  return x;
}

LossSum CudaStage::evaluate(const StageBatch& batch, std::span<const float> input,
                            std::span<float> output, std::span<double> sample_losses) {
  check_positions(batch.positions, shape_);
  TENAX_CHECK(!spec_.has_embedding || batch.tokens.size() == num_tokens(shape_));
  std::byte* const x = run_layers(shape_, batch, input);
  if (!spec_.has_head) {
    boundary_out(x, output);
    return {};
  }
  TENAX_CHECK(batch.targets.size() == num_tokens(shape_));
  check_tokens(batch.targets, -1);
  return head(
      {final_norm(CudaOps(*context_, shape_), x), nullptr, nullptr, batch.targets, sample_losses});
}

void CudaStage::next_token_logits(std::span<const std::int32_t> tokens, std::span<float> logits) {
  TENAX_CHECK(spec_.has_embedding && spec_.has_head && !is_shared());
  TENAX_CHECK(!tokens.empty() && tokens.size() <= static_cast<std::size_t>(shape_.sequence_length));
  TENAX_CHECK(logits.size() == static_cast<std::size_t>(options_.vocabulary_size));
  const BatchShape one_sequence{1, static_cast<int>(tokens.size())};
  std::byte* const x = run_layers(one_sequence, {tokens}, {});
  std::byte* const last =
      x + static_cast<std::int64_t>(tokens.size() - 1) * options_.width * sizes_.element;
  make_logits(final_norm(CudaOps(*context_, {1, 1}), last), 1);
  if (options_.logit_scale != 1)
    device_->queue(device_->plugin().run_scale, static_cast<void*>(workspace_.logits), type_,
                   static_cast<float>(options_.logit_scale),
                   static_cast<std::int64_t>(logits.size()));
  CudaMemory floats;
  if (auto memory = device_->allocate_bytes(logits.size_bytes(), "logits")) {
    floats = *std::move(memory);
  } else {
    std::ranges::fill(logits, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  device_->queue(device_->plugin().run_cast, static_cast<const void*>(workspace_.logits), type_,
                 static_cast<void*>(floats.data()), std::int32_t{TENAX_CUDA_F32},
                 static_cast<std::int64_t>(logits.size()));
  device_->read({reinterpret_cast<const float*>(floats.data()), logits.size()}, logits);
}

}  // namespace tenax::compute
