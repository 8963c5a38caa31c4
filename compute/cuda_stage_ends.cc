// Both ends of the model on a GPU: the embedding and the head. See cuda_stage.h.
#include <algorithm>
#include <limits>

#include "compute/cuda_stage.h"

namespace tenax::compute {

// --- The embedding

void CudaStage::embed(const CudaOps& ops, const BatchShape& shape,
                      std::span<const std::int32_t> tokens, const std::int32_t* places,
                      const CudaOps::NormCall& norm) {
  upload(tokens, workspace_.tokens);
  tenax_cuda_embed call{};
  call.type = type_;
  call.scale = static_cast<float>(options_.embedding_scale);
  call.rows = static_cast<std::int64_t>(tokens.size());
  call.length = shape.sequence_length;
  call.width = options_.width;
  call.first_token = first_token();
  call.num_tokens = options_.padded_vocabulary_size;
  call.tokens = workspace_.tokens;
  call.places = places;
  call.table = ops.weight(layout_.token);
  // Of ranks that share the table one has a token's row, and the first adds its position.
  if (spec_.tensor.index == 0) call.position = ops.weight(layout_.position);
  std::byte* const out = options_.embedding_norm ? norm.x : norm.y;
  call.out = is_shared() ? workspace_.dprojected : out;
  device_->run(device_->plugin().run_embed, call);
  if (is_shared()) {
    cast(call.out, type_, workspace_.sum, TENAX_CUDA_F32, call.rows);
    ops.reduce_scatter();
    cast(ops.own_sum(), TENAX_CUDA_F32, out, type_, ops.sizes().own.size());
  }
  if (options_.embedding_norm) ops.norm(norm);
}

void CudaStage::gather_rows(const TokenBuckets& buckets, float scale, const std::byte* grad,
                            float* table, float* positions) {
  if (buckets.tokens.empty()) return;
  upload(std::span(buckets.tokens), workspace_.bucket_tokens);
  upload(std::span(buckets.begins), workspace_.bucket_begins);
  upload(std::span(buckets.order), workspace_.bucket_order);
  tenax_cuda_embed_backward call{};
  call.type = type_;
  call.scale = scale;
  call.rows = sizes_.tokens;
  call.length = shape_.sequence_length;
  call.width = options_.width;
  call.num_buckets = static_cast<std::int64_t>(buckets.tokens.size());
  call.tokens = workspace_.bucket_tokens;
  call.begins = workspace_.bucket_begins;
  call.order = workspace_.bucket_order;
  call.dout = grad;
  call.dtable = table;
  call.dposition = positions;
  device_->run(device_->plugin().run_embed_backward, call);
}

void CudaStage::embed_backward(const CudaSlot& slot, const Places& at, std::byte* grad,
                               float* gradient) {
  const CudaOps ops(*context_, shape_);
  if (dropout_.embedding.active()) ops.drop(dropout_.embedding, at.samples, grad, grad);
  if (options_.embedding_norm)
    ops.norm_backward(
        {layout_.embedding_norm, slot.embedded, nullptr, slot.embedded_mean, slot.embedded_rstd},
        grad, grad, false, gradient);
  grad = ops.all_rows(grad, workspace_.dprojected);
  const TokenBuckets tokens =
      token_buckets(slot.tokens, static_cast<std::int32_t>(first_token()),
                    static_cast<std::int32_t>(options_.padded_vocabulary_size));
  float* const positions = layout_.position < 0 ? nullptr : gradient + layout_.position;
  const bool together = slot.places.empty() && !tokens.tokens.empty();
  gather_rows(tokens, static_cast<float>(options_.embedding_scale), grad, gradient + layout_.token,
              together ? positions : nullptr);
  if (positions == nullptr || together) return;
  std::vector<std::int32_t> places = slot.places;
  for (auto i = static_cast<std::int32_t>(places.size()); i < sizes_.tokens; ++i)
    places.push_back(i % shape_.sequence_length);
  gather_rows(token_buckets(places, 0, static_cast<std::int32_t>(options_.max_sequence_length)), 1,
              grad, positions, nullptr);
}

// --- The head

CudaOps::NormCall CudaStage::final_norm_call(const CudaOps& ops, std::byte* x) const {
  return {layout_.final_norm, x, ops.own(workspace_.normed), workspace_.mean, workspace_.rstd};
}

std::byte* CudaStage::final_norm(const CudaOps& ops, std::byte* x) {
  if (layout_.final_norm.weight < 0) return ops.all_rows(x, workspace_.normed);
  ops.norm(final_norm_call(ops, x));
  ops.gather(workspace_.normed);
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

void CudaStage::share_loss(tenax_cuda_cross_entropy chunk, std::span<const std::int32_t> targets,
                           double* losses, double* z_terms) {
  const bool with_gradient = chunk.with_gradient != 0;
  const auto rows = static_cast<std::size_t>(chunk.rows);
  chunk.first_token = first_token();
  chunk.loss = chunk.z_term = nullptr;
  chunk.with_gradient = 0;
  chunk.parts = workspace_.parts;
  device_->run(device_->plugin().run_cross_entropy, chunk);
  // NaN stays where the device has failed.
  std::vector<double> mine(2 * rows, std::numeric_limits<double>::quiet_NaN());
  fetch(workspace_.parts, mine);
  std::vector<double> all(mine.size() * static_cast<std::size_t>(spec_.tensor.size));
  settings_.tensor_group->all_gather(mine, all);
  std::vector<double> log_sums(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    const VocabularySum whole = whole_vocabulary(all, chunk.rows, static_cast<std::int64_t>(r));
    log_sums[r] = whole.log_sum;
    const bool is_masked = targets[r] < 0;
    losses[r] = is_masked ? 0 : whole.log_sum - whole.at_target;
    z_terms[r] = is_masked ? 0 : options_.z_loss * whole.log_sum * whole.log_sum;
  }
  if (!with_gradient) return;
  upload(std::span<const double>(log_sums), workspace_.log_sums);
  chunk.parts = nullptr;
  chunk.log_sums = workspace_.log_sums;
  chunk.with_gradient = 1;
  device_->run(device_->plugin().run_cross_entropy, chunk);
}

LossSum CudaStage::head(const HeadCall& call) {
  upload(call.targets, workspace_.targets);
  const std::size_t tokens = call.targets.size();
  // NaN stays where the device has failed.
  std::vector<double> losses(2 * tokens, std::numeric_limits<double>::quiet_NaN());
  const std::span<double> z_terms = std::span(losses).subspan(tokens);
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
    if (is_shared()) {
      share_loss(loss, call.targets.subspan(static_cast<std::size_t>(first)), losses.data() + first,
                 z_terms.data() + first);
    } else {
      device_->run(device_->plugin().run_cross_entropy, loss);
    }
    if (call.gradient == nullptr) continue;
    tenax_cuda_matmul dx{};
    dx.type = type_;
    dx.m = rows;
    dx.n = dx.ldb = dx.ldd = options_.width;
    dx.k = sizes_.vocabulary;
    dx.a = workspace_.logits;
    dx.lda = sizes_.logits_ld;
    dx.b = weights() + layout_.output * sizes_.element;
    if (is_shared()) {
      dx.out_type = TENAX_CUDA_F32;
      dx.d = workspace_.sum + first * options_.width;
    } else {
      dx.out_type = type_;
      dx.d = call.dx + first * options_.width * sizes_.element;
    }
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
  if (call.gradient != nullptr && is_shared()) {
    const CudaOps ops(*context_, shape_);
    ops.reduce_scatter();
    cast(ops.own_sum(), TENAX_CUDA_F32, call.dx, type_, ops.sizes().own.size());
  }
  if (!is_shared()) {
    fetch(workspace_.loss, std::span(losses).first(tokens));
    fetch(workspace_.z_term, z_terms);
  }
  // Tokens in order within a sample, samples in order, as on the CPU.
  LossSum total;
  double sample = 0;
  const auto length = static_cast<std::size_t>(shape_.sequence_length);
  for (std::size_t i = 0; i < tokens; ++i) {
    sample += losses[i];
    total.z_sum += z_terms[i];
    total.targets += call.targets[i] >= 0 ? 1 : 0;
    if ((i + 1) % length != 0) continue;
    if (!call.sample_losses.empty()) call.sample_losses[i / length] = sample;
    total.sum += sample;
    sample = 0;
  }
  return total;
}

}  // namespace tenax::compute
