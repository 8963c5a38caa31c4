#include "compute/cpu/cpu_stage.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"

namespace tenax::compute::cpu {

namespace {

/// Token i's place in its document.
std::int64_t position_of(std::span<const std::int32_t> positions, const BatchShape& shape,
                         std::size_t i) {
  return positions.empty() ? static_cast<std::int64_t>(i) % shape.sequence_length : positions[i];
}

}  // namespace

CpuStage::CpuStage(const ModelOptions& options, const StageSpec& spec, const BatchShape& shape,
                   int num_slots, const StageSettings& settings)
    : model_(resolved(options)),
      options_(local_options(model_, spec.tensor)),
      spec_(spec),
      shape_(shape),
      settings_(settings),
      layout_(lay_out_stage(model_, spec)),
      kernels_(settings.isa, settings.precision, settings.num_threads),
      own_values_(settings.values.empty() ? static_cast<std::size_t>(layout_.values_size) : 0),
      values_(settings.values.empty() ? own_values_.span() : settings.values) {
  TENAX_CHECK(values_.size() == static_cast<std::size_t>(layout_.values_size));
  TENAX_CHECK((settings.tensor_group != nullptr) == (spec.tensor.size > 1));
  tables_ = AlignedBuffer(measure([&](Arena& a) { PositionTables::place(a, options_); }));
  Arena table_arena(tables_.data());
  const PositionTables tables = PositionTables::place(table_arena, options_);
  tables.fill(options_, options_.num_heads * spec.tensor.index, model_.num_heads);

  workspace_buffer_ = AlignedBuffer(
      measure([&](Arena& a) { StageWorkspace::place(a, options_, spec_, shape_, settings_); }));
  Arena workspace_arena(workspace_buffer_.data());
  workspace_ = StageWorkspace::place(workspace_arena, options_, spec_, shape_, settings_);

  slots_.resize(static_cast<std::size_t>(num_slots));
  StageSlot counted;
  const std::size_t slot_size =
      measure([&](Arena& a) { counted.place(a, options_, spec_, shape_, settings_.recompute); });
  slot_buffer_ = AlignedBuffer(slot_size * slots_.size());
  Arena slot_arena(slot_buffer_.data());
  for (StageSlot& slot : slots_) {
    slot.place(slot_arena, options_, spec_, shape_, settings_.recompute);
    if (settings_.recompute == Recompute::kSelective)
      for (LayerActivations& layer : slot.layers) layer.borrow(workspace_.layer);
    slot.tokens.resize(spec_.has_embedding ? num_tokens(shape_) : 0);
    slot.targets.resize(spec_.has_head ? num_tokens(shape_) : 0);
    slot.positions.resize(num_tokens(shape_));
    slot.samples.resize(settings_.dropout.any() ? static_cast<std::size_t>(shape_.microbatch_size)
                                                : 0);
    slot.sample_losses.resize(spec_.has_head ? static_cast<std::size_t>(shape_.microbatch_size)
                                             : 0);
  }
  context_ = std::make_unique<BlockContext>(BlockContext{options_, kernels_, workspace_.block,
                                                         tables.cosine, tables.sine, tables.slopes,
                                                         settings.tensor_group, settings.trace});
  dropout_ =
      stage_dropout(settings_.dropout, settings_.dropout_seed, spec_.first_layer, spec_.end_layer);
  added_to_ = extents_added_to();
}

std::vector<std::pair<std::int64_t, std::int64_t>> CpuStage::extents_added_to() const {
  const ModelOptions& o = options_;
  std::vector<std::pair<std::int64_t, std::int64_t>> products;  // offset and size
  const std::int64_t query = o.num_heads * o.head_dim;
  const std::int64_t kv = o.num_kv_heads * o.head_dim;
  for (const LayerOffsets& at : layout_.layers) {
    for (const auto& [map, rows] :
         {std::pair(at.query, query), std::pair(at.key, kv), std::pair(at.value, kv),
          std::pair(at.output, query), std::pair(at.gate, o.ffn_width),
          std::pair(at.up, o.ffn_width), std::pair(at.down, o.ffn_width)})
      if (map.weight >= 0) products.emplace_back(map.weight, rows * o.width);
  }
  if (spec_.has_head) products.emplace_back(layout_.output_gradient, o.vocabulary_size * o.width);
  std::ranges::sort(products);
  std::vector<std::pair<std::int64_t, std::int64_t>> between;
  std::int64_t end = 0;
  for (const auto& [offset, floats] : products) {
    if (offset > end) between.emplace_back(end, offset);
    end = offset + floats;
  }
  if (end < layout_.gradient_size) between.emplace_back(end, layout_.gradient_size);
  return between;
}

std::size_t CpuStage::boundary_size() const { return static_cast<std::size_t>(own_size(shape_)); }

void CpuStage::gather(const BatchShape& shape, float* all) {
  if (settings_.tensor_group != nullptr)
    settings_.tensor_group->gather_rows({all, stream_size(options_, shape)}, options_.width);
}

StageMemory CpuStage::memory() const { return plan_memory(options_, spec_, shape_, settings_); }

std::string CpuStage::kernel_description() const {
  return fmt::format("cpu gemm {}", kernels_.gemms.front().description());
}

void CpuStage::initialise(std::uint64_t seed) { initial_stage_values(layout_, seed, values()); }

const float* CpuStage::value(std::int64_t offset) const {
  return offset < 0 ? nullptr : values_.data() + offset;
}

StageSlot& CpuStage::slot_at(int slot) {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)];
}

void CpuStage::check_tokens(std::span<const std::int32_t> tokens, std::int32_t lowest) const {
  for (const std::int32_t token : tokens)
    TENAX_CHECK(token >= lowest && token < model_.vocabulary_size);
}

NormCall CpuStage::norm_call(const BatchShape& shape, const NormOffsets& at, const float* x,
                             float* mean, float* rstd) const {
  NormCall call;
  call.rows = rows_of(shape).size();
  call.n = options_.width;
  call.x = x;
  call.weight = value(at.weight);
  call.bias = value(at.bias);
  call.mean = mean;
  call.rstd = rstd;
  call.epsilon = static_cast<float>(options_.norm_epsilon);
  return call;
}

const float* CpuStage::token_row(std::int32_t token) const {
  const std::int64_t rows = options_.padded_vocabulary_size;
  const std::int64_t row = token - first_token();
  return row >= 0 && row < rows ? value(layout_.token) + row * options_.width : nullptr;
}

void CpuStage::embed(const BatchShape& shape, const StageBatch& batch, float* raw, float* mean,
                     float* rstd, float* out) {
  const KernelSpan span(settings_.trace, TraceKind::kEmbedding);
  const std::span<const std::int32_t> tokens = batch.tokens;
  const std::int64_t width = options_.width;
  float* rows = options_.embedding_norm ? raw : out;
  const bool shared = settings_.tensor_group != nullptr;
  float* const looked_up = shared ? workspace_.block.projected : rows;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    float* row = looked_up + static_cast<std::int64_t>(i) * width;
    if (const float* from = token_row(tokens[i]); from != nullptr) {
      std::copy_n(from, width, row);
    } else {
      std::fill_n(row, width, 0.0f);
    }
  }
  if (shared) {
    settings_.tensor_group->reduce_scatter_rows({looked_up, stream_size(options_, shape)}, width);
    kernels_.copy(own_size(shape), own_rows(shape, looked_up), rows);
  }
  const TokenRows own = rows_of(shape);
  for (std::int64_t r = 0; r < own.size(); ++r) {
    float* row = rows + r * width;
    if (options_.embedding_scale != 1)
      kernels_.ops.scale(width, static_cast<float>(options_.embedding_scale), row);
    if (layout_.position >= 0) {
      const std::int64_t position =
          position_of(batch.positions, shape, static_cast<std::size_t>(own.begin + r));
      kernels_.ops.add(width, value(layout_.position) + position * width, row);
    }
  }
  if (!options_.embedding_norm) return;
  NormCall call = norm_call(shape, layout_.embedding_norm, raw, mean, rstd);
  call.y = out;
  kernels_.norm_forward(call);
}

void CpuStage::drop_embedding(std::span<const std::int64_t> samples, float* x) {
  if (!dropout_.embedding.active()) return;
  drop_tokens(kernels_, dropout_.embedding, samples.data(), shape_.sequence_length, rows_of(shape_),
              options_.width, x);
}

void CpuStage::embed_backward(const StageSlot& slot, float* grad, float* gradient) {
  const KernelSpan span(settings_.trace, TraceKind::kEmbedding);
  const std::int64_t width = options_.width;
  drop_embedding(slot.samples, grad);
  if (options_.embedding_norm) {
    const NormOffsets& at = layout_.embedding_norm;
    NormCall call = norm_call(shape_, at, slot.embedded, slot.embedded_mean, slot.embedded_rstd);
    call.dy = grad;
    call.dx = grad;
    call.dweight = gradient + at.weight;
    call.dbias = at.bias < 0 ? nullptr : gradient + at.bias;
    kernels_.norm_backward(call);
  }
  if (settings_.tensor_group != nullptr) {
    float* const all = workspace_.block.projected;
    kernels_.copy(own_size(shape_), grad, own_rows(shape_, all));
    gather(shape_, all);
    grad = all;
  }
  for (std::size_t i = 0; i < slot.tokens.size(); ++i) {
    float* row = grad + static_cast<std::int64_t>(i) * width;
    if (layout_.position >= 0) {
      const std::int64_t position = position_of(slot.batch().positions, shape_, i);
      kernels_.ops.add(width, row, gradient + layout_.position + position * width);
    }
    if (options_.embedding_scale != 1)
      kernels_.ops.scale(width, static_cast<float>(options_.embedding_scale), row);
    if (const float* at = token_row(slot.tokens[i]); at != nullptr)
      kernels_.ops.add(width, row, gradient + (at - values_.data()));
  }
}

const float* CpuStage::final_norm(const BatchShape& shape, const float* x) {
  const bool has_norm = layout_.final_norm.weight >= 0;
  if (!has_norm && settings_.tensor_group == nullptr) return x;
  float* const own = own_rows(shape, workspace_.normed);
  if (has_norm) {
    const KernelSpan span(settings_.trace, TraceKind::kNorm);
    NormCall call = norm_call(shape, layout_.final_norm, x, workspace_.mean, workspace_.rstd);
    call.y = own;
    kernels_.norm_forward(call);
  } else {
    kernels_.copy(own_size(shape), x, own);
  }
  gather(shape, workspace_.normed);
  return workspace_.normed;
}

void CpuStage::forward(int slot_index, const StageBatch& batch, std::span<const float> input,
                       std::span<float> output) {
  StageSlot& slot = slot_at(slot_index);
  // Where each layer's output goes: the next one's input, the head's, or the caller.
  const auto stream = [&](std::size_t i) {
    return i < slot.inputs.size() ? slot.inputs[i] : output.data();
  };
  TENAX_CHECK(spec_.has_head || output.size() == boundary_size());
  if (spec_.has_head) {
    TENAX_CHECK(batch.targets.size() == slot.targets.size());
    check_tokens(batch.targets, -1);
    std::ranges::copy(batch.targets, slot.targets.begin());
    slot.loss = {};
  }
  check_positions(batch.positions, shape_);
  slot.has_positions = !batch.positions.empty();
  TENAX_CHECK(slot.samples.empty() || batch.samples.size() == slot.samples.size());
  if (!slot.samples.empty()) std::ranges::copy(batch.samples, slot.samples.begin());
  std::ranges::copy(batch.positions, slot.positions.begin());
  if (spec_.has_embedding) {
    TENAX_CHECK(batch.tokens.size() == slot.tokens.size());
    check_tokens(batch.tokens, 0);
    std::ranges::copy(batch.tokens, slot.tokens.begin());
    embed(shape_, batch, slot.embedded, slot.embedded_mean, slot.embedded_rstd, stream(0));
    drop_embedding(slot.samples, stream(0));
  } else {
    TENAX_CHECK(input.size() == boundary_size());
    std::ranges::copy(input, stream(0));
  }
  for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
    LayerActivations& kept = slot.layers.empty() ? workspace_.layer : slot.layers[i];
    block_forward(*context_,
                  {shape_, layout_.layers[i], values_.data(), slot.inputs[i], kept,
                   batch.positions.data(), dropout_.of(i), slot.samples.data(), layer_number(i)},
                  stream(i + 1));
  }
}

void CpuStage::run_backward(int slot_index, std::span<const float> output_grad,
                            std::span<float> input_grad, std::span<float> gradient,
                            BackwardWatcher* watcher) {
  StageSlot& slot = slot_at(slot_index);
  TENAX_CHECK(gradient.size() == gradient_size());
  TENAX_CHECK(spec_.has_head || output_grad.size() == boundary_size());
  TENAX_CHECK(spec_.has_embedding || input_grad.size() == boundary_size());
  float* grad = workspace_.grad;
  for (const auto& [begin, end] : added_to_) {
    constexpr std::int64_t kGrain = 1 << 16;
    float* const base = gradient.data() + begin;
    kernels_.for_ranges(end - begin, kGrain, [&](std::int64_t from, std::int64_t to) {
      std::fill(base + from, base + to, 0.0f);
    });
  }
  if (spec_.has_head) {
    HeadCall call;
    call.shape = shape_;
    call.x = final_norm(shape_, slot.inputs.back());
    call.weight = value(layout_.output);
    call.targets = slot.targets.data();
    call.tensor_group = settings_.tensor_group;
    call.first_token = first_token();
    float* const dx = settings_.tensor_group == nullptr ? grad : workspace_.block.dnormed;
    call.dx = dx;
    call.dweight = gradient.data() + layout_.output_gradient;
    call.sample_losses = slot.sample_losses;
    {
      const KernelSpan span(settings_.trace, TraceKind::kCrossEntropy);
      slot.loss = head_loss(kernels_, options_, call, workspace_.head);
    }
    if (const NormOffsets& at = layout_.final_norm; at.weight >= 0) {
      const KernelSpan span(settings_.trace, TraceKind::kNorm);
      NormCall norm = norm_call(shape_, at, slot.inputs.back(), workspace_.mean, workspace_.rstd);
      norm.dy = own_rows(shape_, dx);
      norm.dx = grad;
      norm.dweight = gradient.data() + at.weight;
      norm.dbias = at.bias < 0 ? nullptr : gradient.data() + at.bias;
      kernels_.norm_backward(norm);
    } else if (dx != grad) {
      kernels_.copy(own_size(shape_), own_rows(shape_, dx), grad);
    }
  } else {
    std::ranges::copy(output_grad, grad);
  }
  const auto done = [&](std::size_t part) {
    if (watcher != nullptr) watcher->part_done(static_cast<int>(part));
  };
  done(0);
  for (std::size_t i = layout_.layers.size(); i-- > 0;) {
    LayerActivations& kept = slot.layers.empty() ? workspace_.layer : slot.layers[i];
    const BlockCall call{shape_,         layout_.layers[i],
                         values_.data(), slot.inputs[i],
                         kept,           slot.batch().positions.data(),
                         dropout_.of(i), slot.samples.data(),
                         layer_number(i)};
    if (settings_.recompute == Recompute::kFull)
      block_forward(*context_, call, workspace_.stream[0]);
    if (settings_.recompute == Recompute::kSelective) block_recompute(*context_, call);
    block_backward(*context_, call, grad, gradient.data());
    done(layout_.layers.size() - i);
  }
  if (spec_.has_embedding)
    embed_backward(slot, grad, gradient.data());
  else
    std::copy_n(grad, input_grad.size(), input_grad.data());
  done(layout_.layers.size() + 1);
}

LossSum CpuStage::loss(int slot) const {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)].loss;
}

std::span<const double> CpuStage::sample_losses(int slot) const {
  TENAX_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size());
  return slots_[static_cast<std::size_t>(slot)].sample_losses;
}

float* CpuStage::run_layers(const BatchShape& shape, const StageBatch& batch,
                            std::span<const float> input) {
  float* x = workspace_.stream[0];
  float* next = workspace_.stream[1];
  if (spec_.has_embedding) {
    check_tokens(batch.tokens, 0);
    embed(shape, batch, workspace_.normed, workspace_.mean, workspace_.rstd, x);
  } else {
    std::ranges::copy(input, x);
  }
  for (const LayerOffsets& at : layout_.layers) {
    block_forward(*context_,
                  {shape, at, values_.data(), x, workspace_.layer, batch.positions.data()}, next);
    std::swap(x, next);
  }
  return x;
}

LossSum CpuStage::evaluate(const StageBatch& batch, std::span<const float> input,
                           std::span<float> output, std::span<double> sample_losses) {
  TENAX_CHECK(spec_.has_embedding ? batch.tokens.size() == num_tokens(shape_)
                                  : input.size() == boundary_size());
  check_positions(batch.positions, shape_);
  const float* x = run_layers(shape_, batch, input);
  if (!spec_.has_head) {
    TENAX_CHECK(output.size() == boundary_size());
    std::copy_n(x, output.size(), output.data());
    return {};
  }
  TENAX_CHECK(batch.targets.size() == num_tokens(shape_));
  check_tokens(batch.targets, -1);
  HeadCall call;
  call.shape = shape_;
  call.x = final_norm(shape_, x);
  call.weight = value(layout_.output);
  call.targets = batch.targets.data();
  call.tensor_group = settings_.tensor_group;
  call.first_token = first_token();
  call.sample_losses = sample_losses;
  return head_loss(kernels_, options_, call, workspace_.head);
}

void CpuStage::next_token_logits(std::span<const std::int32_t> tokens, std::span<float> logits) {
  TENAX_CHECK(spec_.has_embedding && spec_.has_head && spec_.tensor.size == 1);
  TENAX_CHECK(!tokens.empty() && tokens.size() <= static_cast<std::size_t>(shape_.sequence_length));
  TENAX_CHECK(logits.size() == static_cast<std::size_t>(options_.vocabulary_size));
  const BatchShape one_sequence{1, static_cast<int>(tokens.size())};
  const float* x = run_layers(one_sequence, {tokens}, {});
  const float* last = x + static_cast<std::int64_t>(tokens.size() - 1) * options_.width;
  const LinearForward output[] = {
      {options_.vocabulary_size, value(layout_.output), nullptr, logits.data()}};
  linear_forward(kernels_, 1, options_.width, final_norm({1, 1}, last), output, Write::kOverwrite);
  if (options_.logit_scale != 1)
    kernels_.ops.scale(options_.vocabulary_size, static_cast<float>(options_.logit_scale),
                       logits.data());
}

}  // namespace tenax::compute::cpu
