#include "compute/cpu/head.h"

#include <algorithm>

namespace tenax::compute::cpu {
namespace {

/// Tokens of a chunk: many enough that reading and writing the weight's gradient for each chunk is
/// cheap beside the products, few enough that the logits stay small. Fixed by the model, since the
/// gradient's sum is cut there.
std::int64_t chunk_tokens(const ModelOptions& options) {
  constexpr std::int64_t kLogitFloats = std::int64_t{1} << 20;
  return std::clamp<std::int64_t>(kLogitFloats / options.vocabulary_size, 128, 512);
}

}  // namespace

HeadWorkspace HeadWorkspace::place(Arena& arena, const ModelOptions& options,
                                   const BatchShape& shape) {
  const std::int64_t tokens = std::int64_t{shape.microbatch_size} * shape.sequence_length;
  const auto chunk = static_cast<std::size_t>(std::min(chunk_tokens(options), tokens));
  constexpr std::size_t kFloatsPerDouble = sizeof(double) / sizeof(float);
  HeadWorkspace w;
  w.logits = arena.take(chunk * static_cast<std::size_t>(options.vocabulary_size));
  w.loss = reinterpret_cast<double*>(arena.take(chunk * kFloatsPerDouble));
  w.z_term = reinterpret_cast<double*>(arena.take(chunk * kFloatsPerDouble));
  return w;
}

LossSum head_loss(Kernels& kernels, const ModelOptions& o, const HeadCall& call,
                  const HeadWorkspace& w) {
  const std::int64_t length = call.shape.sequence_length;
  const std::int64_t tokens = call.shape.microbatch_size * length;
  std::ranges::fill(call.sample_losses, 0.0);
  LossSum total;
  double sample = 0;
  for (std::int64_t first = 0; first < tokens; first += chunk_tokens(o)) {
    const std::int64_t rows = std::min(chunk_tokens(o), tokens - first);
    const float* x = call.x + first * o.width;
    const LinearShape shape{rows, o.width, o.vocabulary_size};
    linear_forward(kernels, shape, x, call.weight, nullptr, w.logits, Write::kOverwrite);
    CrossEntropyCall loss;
    loss.rows = rows;
    loss.n = o.vocabulary_size;
    loss.logits = w.logits;
    loss.targets = call.targets + first;
    loss.logit_scale = static_cast<float>(o.logit_scale);
    loss.z_loss = o.z_loss;
    loss.loss = w.loss;
    loss.z_term = w.z_term;
    loss.with_gradient = call.dx != nullptr;
    constexpr std::int64_t kGrain = 16;
    kernels.for_ranges(rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
      CrossEntropyCall part = loss;
      part.rows = end - begin;
      part.logits += begin * loss.n;
      part.targets += begin;
      part.loss += begin;
      part.z_term += begin;
      kernels.ops.cross_entropy(part);
    });
    if (call.dx != nullptr) {
      linear_backward_input(kernels, shape, w.logits, call.weight, call.dx + first * o.width,
                            Write::kOverwrite);
      linear_backward_weight(kernels, shape, w.logits, x, call.dweight, nullptr);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      sample += w.loss[r];
      total.z_sum += w.z_term[r];
      total.targets += call.targets[first + r] >= 0 ? 1 : 0;
      if ((first + r + 1) % length != 0) continue;
      if (!call.sample_losses.empty())
        call.sample_losses[static_cast<std::size_t>((first + r) / length)] = sample;
      total.sum += sample;
      sample = 0;
    }
  }
  return total;
}

}  // namespace tenax::compute::cpu
