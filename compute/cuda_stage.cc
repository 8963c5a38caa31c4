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
      options_(resolved(options)),
      spec_(spec),
      shape_(shape),
      settings_(settings),
      layout_(lay_out_stage(options_, spec)),
      sizes_(options_, shape, is_bfloat16(settings) ? 2 : 4),
      type_(is_bfloat16(settings) ? TENAX_CUDA_BF16 : TENAX_CUDA_F32) {}

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
  workspace_.place(workspace_arena, options_, spec_, sizes_);
  TENAX_TRY(slot_memory_, device_->allocate_bytes(static_cast<std::uint64_t>(plan.slot * num_slots),
                                                  "activations"));
  ByteArena slot_arena(slot_memory_.data());
  slots_.resize(static_cast<std::size_t>(num_slots));
  for (CudaSlot& slot : slots_) {
    slot.place(slot_arena, options_, spec_, sizes_, settings_.recompute);
    slot.tokens.resize(spec_.has_embedding ? num_tokens(shape_) : 0);
    slot.targets.resize(spec_.has_head ? num_tokens(shape_) : 0);
    slot.sample_losses.resize(spec_.has_head ? static_cast<std::size_t>(shape_.microbatch_size)
                                             : 0);
  }
  context_ = std::make_unique<CudaBlockContext>(CudaBlockContext{
      *device_, options_, workspace_, type_, values_.data(), weights(), TENAX_CUDA_ATTENTION_AUTO});
  return {};
}

void CudaStage::fill_tables() {
  const std::size_t size = cpu::measure([&](Arena& a) { cpu::PositionTables::place(a, options_); });
  if (size == 0) return;
  const AlignedBuffer host(size);
  Arena arena(host.data());
  const cpu::PositionTables tables = cpu::PositionTables::place(arena, options_);
  tables.fill(options_, 0, options_.num_heads);
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
  return num_tokens(shape_) * static_cast<std::size_t>(options_.width);
}

StageMemory CudaStage::memory() const {
  return plan_cuda_memory(options_, spec_, shape_, settings_);
}

std::string CudaStage::kernel_description() const {
  const tenax_cuda_device_info& info = device_->info();
  return fmt::format("cuda {} sm_{}{} driver {} runtime {} {}{}\n{}", info.name, info.major,
                     info.minor, info.driver_version, info.runtime_version,
                     is_bfloat16(settings_) ? "bf16" : "f32",
                     device_->reproducible() ? " reproducible" : "", device_->plans());
}

void CudaStage::initialise(std::uint64_t seed) {
  AlignedBuffer host(static_cast<std::size_t>(layout_.values_size));
  for (const StageParameter& p : layout_.parameters)
    initial_values(p.spec, seed, 0,
                   host.span().subspan(static_cast<std::size_t>(p.offset),
                                       static_cast<std::size_t>(p.spec.num_elements())));
  device_->write(host.span(), values_);
  values_changed();
}

CudaSlot& CudaStage::slot_at(int slot) {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)];
}

void CudaStage::check_tokens(std::span<const std::int32_t> tokens, std::int32_t lowest) const {
  for (const std::int32_t token : tokens)
    TENAX_CHECK(token >= lowest && token < options_.vocabulary_size);
}

void CudaStage::upload(std::span<const std::int32_t> host, std::int32_t* to) {
  device_->queue(device_->plugin().to_device, static_cast<void*>(to),
                 static_cast<const void*>(host.data()),
                 static_cast<std::uint64_t>(host.size_bytes()));
}

// --- Boundaries: float32 on the host's side.

std::span<float> CudaStage::boundary() const { return {workspace_.boundary, boundary_size()}; }

void CudaStage::boundary_in(std::span<const float> host, std::byte* to) {
  TENAX_CHECK(host.size() == boundary_size());
  device_->write(host, boundary());
  device_->queue(device_->plugin().run_cast, static_cast<const void*>(workspace_.boundary),
                 std::int32_t{TENAX_CUDA_F32}, static_cast<void*>(to), type_,
                 static_cast<std::int64_t>(host.size()));
}

void CudaStage::boundary_out(const std::byte* from, std::span<float> host) {
  TENAX_CHECK(host.size() == boundary_size());
  device_->queue(device_->plugin().run_cast, static_cast<const void*>(from), type_,
                 static_cast<void*>(workspace_.boundary), std::int32_t{TENAX_CUDA_F32},
                 static_cast<std::int64_t>(host.size()));
  device_->read(boundary(), host);
}

// --- The embedding

void CudaStage::embed(const CudaOps& ops, const BatchShape& shape,
                      std::span<const std::int32_t> tokens, const CudaOps::NormCall& norm) {
  upload(tokens, workspace_.tokens);
  tenax_cuda_embed call{};
  call.type = type_;
  call.scale = static_cast<float>(options_.embedding_scale);
  call.rows = static_cast<std::int64_t>(tokens.size());
  call.length = shape.sequence_length;
  call.width = options_.width;
  call.tokens = workspace_.tokens;
  call.table = ops.weight(layout_.token);
  call.position = ops.weight(layout_.position);
  call.out = options_.embedding_norm ? norm.x : norm.y;
  device_->run(device_->plugin().run_embed, call);
  if (options_.embedding_norm) ops.norm(norm);
}

void CudaStage::embed_backward(const CudaSlot& slot, std::byte* grad, float* gradient) {
  const CudaOps ops(*context_, shape_);
  if (options_.embedding_norm)
    ops.norm_backward(
        {layout_.embedding_norm, slot.embedded, nullptr, slot.embedded_mean, slot.embedded_rstd},
        grad, grad, false, gradient);
  const TokenBuckets buckets = token_buckets(slot.tokens);
  upload(buckets.tokens, workspace_.bucket_tokens);
  upload(buckets.begins, workspace_.bucket_begins);
  upload(buckets.order, workspace_.bucket_order);
  tenax_cuda_embed_backward call{};
  call.type = type_;
  call.scale = static_cast<float>(options_.embedding_scale);
  call.rows = sizes_.tokens;
  call.length = shape_.sequence_length;
  call.width = options_.width;
  call.num_buckets = static_cast<std::int64_t>(buckets.tokens.size());
  call.tokens = workspace_.bucket_tokens;
  call.begins = workspace_.bucket_begins;
  call.order = workspace_.bucket_order;
  call.dout = grad;
  call.dtable = gradient + layout_.token;
  if (layout_.position >= 0) call.dposition = gradient + layout_.position;
  device_->run(device_->plugin().run_embed_backward, call);
}

// --- The head

CudaOps::NormCall CudaStage::final_norm_call(std::byte* x) const {
  return {layout_.final_norm, x, workspace_.normed, workspace_.mean, workspace_.rstd};
}

std::byte* CudaStage::final_norm(const CudaOps& ops, std::byte* x) {
  if (layout_.final_norm.weight < 0) return x;
  ops.norm(final_norm_call(x));
  return workspace_.normed;
}

void CudaStage::make_logits(std::byte* x, std::int64_t rows) {
  tenax_cuda_matmul call{};
  call.type = call.out_type = type_;
  call.transpose_b = 1;
  call.m = rows;
  call.n = sizes_.vocabulary;
  call.k = call.lda = call.ldb = options_.width;
  call.ldd = sizes_.logits_ld;
  call.a = x;
  call.b = weights() + layout_.output * sizes_.element;
  call.d = workspace_.logits;
  device_->run(device_->plugin().run_matmul, call);
}

LossSum CudaStage::head(const HeadCall& call) {
  upload(call.targets, workspace_.targets);
  for (std::int64_t first = 0; first < sizes_.tokens; first += sizes_.head_chunk) {
    const std::int64_t rows = std::min(sizes_.head_chunk, sizes_.tokens - first);
    std::byte* const x = call.x + first * options_.width * sizes_.element;
    make_logits(x, rows);
    tenax_cuda_cross_entropy loss{};
    loss.type = type_;
    loss.with_gradient = call.gradient != nullptr ? 1 : 0;
    loss.rows = rows;
    loss.n = options_.vocabulary_size;
    loss.ld = sizes_.logits_ld;
    loss.z_loss = options_.z_loss;
    loss.logit_scale = static_cast<float>(options_.logit_scale);
    loss.logits = workspace_.logits;
    loss.targets = workspace_.targets + first;
    loss.loss = workspace_.loss + first;
    loss.z_term = workspace_.z_term + first;
    device_->run(device_->plugin().run_cross_entropy, loss);
    if (call.gradient == nullptr) continue;
    tenax_cuda_matmul dx{};
    dx.type = dx.out_type = type_;
    dx.m = rows;
    dx.n = dx.ldb = dx.ldd = options_.width;
    dx.k = sizes_.vocabulary;
    dx.a = workspace_.logits;
    dx.lda = sizes_.logits_ld;
    dx.b = weights() + layout_.output * sizes_.element;
    dx.d = call.dx + first * options_.width * sizes_.element;
    device_->run(device_->plugin().run_matmul, dx);
    tenax_cuda_matmul dw{};
    dw.type = type_;
    dw.out_type = TENAX_CUDA_F32;
    dw.transpose_a = 1;
    dw.m = sizes_.vocabulary;
    dw.n = dw.ldb = dw.ldc = dw.ldd = options_.width;
    dw.k = rows;
    dw.a = workspace_.logits;
    dw.lda = sizes_.logits_ld;
    dw.b = x;
    dw.c = dw.d = call.gradient + layout_.output_gradient;
    device_->run(device_->plugin().run_matmul, dw);
  }
  const std::size_t tokens = call.targets.size();
  // NaN stays where the device has failed.
  std::vector<double> losses(2 * tokens, std::numeric_limits<double>::quiet_NaN());
  const auto fetch = [&](const double* from, double* to) {
    device_->queue(device_->plugin().to_host, static_cast<void*>(to),
                   static_cast<const void*>(from),
                   static_cast<std::uint64_t>(tokens * sizeof(double)));
  };
  fetch(workspace_.loss, losses.data());
  fetch(workspace_.z_term, losses.data() + tokens);
  // Tokens in order within a sample, samples in order, as on the CPU.
  LossSum total;
  double sample = 0;
  const auto length = static_cast<std::size_t>(shape_.sequence_length);
  for (std::size_t i = 0; i < tokens; ++i) {
    sample += losses[i];
    total.z_sum += losses[tokens + i];
    total.targets += call.targets[i] >= 0 ? 1 : 0;
    if ((i + 1) % length != 0) continue;
    if (!call.sample_losses.empty()) call.sample_losses[i / length] = sample;
    total.sum += sample;
    sample = 0;
  }
  return total;
}

// --- Forward and backward

void CudaStage::forward(int slot_index, const StageBatch& batch, std::span<const float> input,
                        std::span<float> output) {
  const std::span<const std::int32_t> tokens = batch.tokens;
  const std::span<const std::int32_t> targets = batch.targets;
  TENAX_CHECK(batch.positions.empty());
  CudaSlot& slot = slot_at(slot_index);
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
    embed(
        CudaOps(*context_, shape_), shape_, tokens,
        {layout_.embedding_norm, slot.embedded, stream(0), slot.embedded_mean, slot.embedded_rstd});
  } else {
    boundary_in(input, stream(0));
  }
  for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
    const CudaLayer& kept = slot.layers.empty() ? workspace_.layer : slot.layers[i];
    cuda_block_forward(*context_, {shape_, layout_.layers[i], slot.inputs[i], kept}, stream(i + 1));
  }
  if (!spec_.has_head) boundary_out(stream(layout_.layers.size()), output);
}

void CudaStage::run_backward(int slot_index, std::span<const float> output_grad,
                             std::span<float> input_grad, std::span<float> gradient,
                             [[maybe_unused]] BackwardWatcher* watcher) {
  CudaSlot& slot = slot_at(slot_index);
  TENAX_CHECK(gradient.size() == gradient_size());
  std::byte* const grad = workspace_.grad;
  if (spec_.has_head) {
    const CudaOps ops(*context_, shape_);
    std::byte* const x = slot.inputs.back();
    slot.loss = head({final_norm(ops, x), grad, gradient.data(), slot.targets, slot.sample_losses});
    if (layout_.final_norm.weight >= 0)
      ops.norm_backward(final_norm_call(x), grad, grad, false, gradient.data());
  } else {
    boundary_in(output_grad, grad);
  }
  for (std::size_t i = layout_.layers.size(); i-- > 0;) {
    const CudaLayer& kept = slot.layers.empty() ? workspace_.layer : slot.layers[i];
    const CudaBlockCall call{shape_, layout_.layers[i], slot.inputs[i], kept};
    if (slot.layers.empty()) cuda_block_forward(*context_, call, workspace_.stream[0]);
    cuda_block_backward(*context_, call, grad, gradient.data());
  }
  if (spec_.has_embedding)
    embed_backward(slot, grad, gradient.data());
  else
    boundary_out(grad, input_grad);
}

LossSum CudaStage::loss(int slot) const {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)].loss;
}

std::span<const double> CudaStage::sample_losses(int slot) const {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)].sample_losses;
}

std::byte* CudaStage::run_layers(const BatchShape& shape, std::span<const std::int32_t> tokens,
                                 std::span<const float> input) {
  std::byte* x = workspace_.stream[0];
  std::byte* next = workspace_.stream[1];
  values_changed();
  if (spec_.has_embedding) {
    check_tokens(tokens, 0);
    embed(CudaOps(*context_, shape), shape, tokens,
          {layout_.embedding_norm, workspace_.normed, x, workspace_.mean, workspace_.rstd});
  } else {
    boundary_in(input, x);
  }
  for (const LayerOffsets& at : layout_.layers) {
    cuda_block_forward(*context_, {shape, at, x, workspace_.layer}, next);
    std::swap(x, next);
  }
  return x;
}

LossSum CudaStage::evaluate(const StageBatch& batch, std::span<const float> input,
                            std::span<float> output, std::span<double> sample_losses) {
  const std::span<const std::int32_t> tokens = batch.tokens;
  const std::span<const std::int32_t> targets = batch.targets;
  TENAX_CHECK(batch.positions.empty());
  TENAX_CHECK(!spec_.has_embedding || tokens.size() == num_tokens(shape_));
  std::byte* const x = run_layers(shape_, tokens, input);
  if (!spec_.has_head) {
    boundary_out(x, output);
    return {};
  }
  TENAX_CHECK(targets.size() == num_tokens(shape_));
  check_tokens(targets, -1);
  return head(
      {final_norm(CudaOps(*context_, shape_), x), nullptr, nullptr, targets, sample_losses});
}

void CudaStage::next_token_logits(std::span<const std::int32_t> tokens, std::span<float> logits) {
  TENAX_CHECK(spec_.has_embedding && spec_.has_head);
  TENAX_CHECK(!tokens.empty() && tokens.size() <= static_cast<std::size_t>(shape_.sequence_length));
  TENAX_CHECK(logits.size() == static_cast<std::size_t>(options_.vocabulary_size));
  const BatchShape one_sequence{1, static_cast<int>(tokens.size())};
  std::byte* const x = run_layers(one_sequence, tokens, {});
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
