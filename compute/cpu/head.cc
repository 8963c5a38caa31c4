#include "compute/cpu/head.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tenax::compute::cpu {
namespace {

/// Tokens of a chunk: many enough that reading and writing the weight's gradient for each chunk is
/// cheap beside the products, few enough that the logits stay small. Fixed by the model, since the
/// gradient's sum is cut there, and the same on ranks that share the vocabulary.
std::int64_t chunk_tokens(const ModelOptions& options, const TensorPart& part) {
  constexpr std::int64_t kLogitFloats = std::int64_t{1} << 20;
  const std::int64_t vocabulary =
      part.size == 1 ? options.vocabulary_size : options.padded_vocabulary_size * part.size;
  return std::clamp<std::int64_t>(kLogitFloats / vocabulary, 256, 512);
}

/// Cross-entropy of a chunk whose logits lie on several ranks: each brings the log-sum of its own
/// rows, all find that of the whole vocabulary from them in one order, and the gradients follow.
class SharedLoss {
 public:
  SharedLoss(Kernels& kernels, const HeadCall& head, const HeadWorkspace& workspace)
      : kernels_(kernels), head_(head), w_(workspace) {}

  void run(const CrossEntropyCall& chunk) const {
    const CrossEntropyCall own = own_sums(chunk);
    const auto size = static_cast<std::size_t>(2 * chunk.rows);
    const int members = head_.tensor_group->part().size;
    head_.tensor_group->all_gather({w_.row_sums, size},
                                   {w_.all_row_sums, size * static_cast<std::size_t>(members)});
    for (std::int64_t r = 0; r < chunk.rows; ++r) finish_row(own, r, members);
  }

 private:
  /// Replaces the logits by the softmax over the own rows and fills row_sums.
  CrossEntropyCall own_sums(CrossEntropyCall chunk) const {
    for (std::int64_t r = 0; r < chunk.rows; ++r) {
      const std::int64_t at = place_of_target(chunk, r);
      w_.row_sums[2 * r + 1] =
          at < 0 ? 0.0 : static_cast<double>(chunk.logits[r * chunk.n + at] * chunk.logit_scale);
    }
    if (chunk.n == 0) {
      for (std::int64_t r = 0; r < chunk.rows; ++r)
        w_.row_sums[2 * r] = -std::numeric_limits<double>::infinity();
      return chunk;
    }
    CrossEntropyCall sums = chunk;
    sums.z_loss = 0;
    sums.target_elsewhere = true;
    kernels_.ops.cross_entropy(sums);
    for (std::int64_t r = 0; r < chunk.rows; ++r) w_.row_sums[2 * r] = chunk.loss[r];
    return chunk;
  }

  void finish_row(const CrossEntropyCall& chunk, std::int64_t r, int members) const {
    chunk.loss[r] = 0;
    chunk.z_term[r] = 0;
    if (chunk.targets[r] < 0) return;  // its gradient is zero already
    const std::span all(w_.all_row_sums, static_cast<std::size_t>(2 * chunk.rows * members));
    const auto [log_sum, at_target] = whole_vocabulary(all, chunk.rows, r);
    chunk.loss[r] = log_sum - at_target;
    chunk.z_term[r] = chunk.z_loss * log_sum * log_sum;
    if (!chunk.with_gradient || chunk.n == 0) return;
    float* const row = chunk.logits + r * chunk.n;
    const double share = std::exp(w_.row_sums[2 * r] - log_sum);
    kernels_.ops.scale(chunk.n, static_cast<float>(share * (1.0 + 2.0 * chunk.z_loss * log_sum)),
                       row);
    if (const std::int64_t at = place_of_target(chunk, r); at >= 0) row[at] -= chunk.logit_scale;
  }

  /// Among the own rows of the vocabulary; -1: masked or another rank's.
  std::int64_t place_of_target(const CrossEntropyCall& chunk, std::int64_t r) const {
    const std::int64_t at = chunk.targets[r] - head_.first_token;
    return chunk.targets[r] >= 0 && at >= 0 && at < chunk.n ? at : -1;
  }

  Kernels& kernels_;
  const HeadCall& head_;
  const HeadWorkspace& w_;
};

}  // namespace

HeadWorkspace HeadWorkspace::place(Arena& arena, const ModelOptions& options,
                                   const BatchShape& shape, const TensorPart& part) {
  const std::int64_t tokens = std::int64_t{shape.microbatch_size} * shape.sequence_length;
  const auto chunk = static_cast<std::size_t>(std::min(chunk_tokens(options, part), tokens));
  constexpr std::size_t kFloatsPerDouble = sizeof(double) / sizeof(float);
  const auto doubles = [&](std::size_t n) {
    return reinterpret_cast<double*>(arena.take(n * kFloatsPerDouble));
  };
  HeadWorkspace w;
  w.logits = arena.take(chunk * static_cast<std::size_t>(options.vocabulary_size));
  w.loss = doubles(chunk);
  w.z_term = doubles(chunk);
  if (part.size == 1) return w;
  w.row_sums = doubles(2 * chunk);
  w.all_row_sums = doubles(2 * chunk * static_cast<std::size_t>(part.size));
  return w;
}

LossSum head_loss(Kernels& kernels, const ModelOptions& o, const HeadCall& call,
                  const HeadWorkspace& w) {
  const std::int64_t length = call.shape.sequence_length;
  const std::int64_t tokens = call.shape.microbatch_size * length;
  std::ranges::fill(call.sample_losses, 0.0);
  LossSum total;
  double sample = 0;
  const TensorPart part = call.tensor_group != nullptr ? call.tensor_group->part() : TensorPart{};
  const std::int64_t chunk = chunk_tokens(o, part);
  for (std::int64_t first = 0; first < tokens; first += chunk) {
    const std::int64_t rows = std::min(chunk, tokens - first);
    const float* x = call.x + first * o.width;
    const std::int64_t vocabulary = o.vocabulary_size;
    if (vocabulary > 0) {
      const LinearForward output[] = {{vocabulary, call.weight, nullptr, w.logits}};
      linear_forward(kernels, rows, o.width, x, output, Write::kOverwrite);
    }
    CrossEntropyCall loss;
    loss.rows = rows;
    loss.n = vocabulary;
    loss.logits = w.logits;
    loss.targets = call.targets + first;
    loss.logit_scale = static_cast<float>(o.logit_scale);
    loss.z_loss = o.z_loss;
    loss.loss = w.loss;
    loss.z_term = w.z_term;
    loss.with_gradient = call.dx != nullptr;
    if (part.size > 1) {
      SharedLoss(kernels, call, w).run(loss);
    } else {
      constexpr std::int64_t kGrain = 16;
      kernels.for_ranges(rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
        CrossEntropyCall piece = loss;
        piece.rows = end - begin;
        piece.logits += begin * loss.n;
        piece.targets += begin;
        piece.loss += begin;
        piece.z_term += begin;
        kernels.ops.cross_entropy(piece);
      });
    }
    if (call.dx != nullptr && vocabulary == 0) {
      std::fill_n(call.dx + first * o.width, rows * o.width, 0.0f);
    } else if (call.dx != nullptr) {
      const LinearBackwardInput input[] = {{vocabulary, call.weight, w.logits}};
      linear_backward_input(kernels, rows, o.width, input, call.dx + first * o.width,
                            Write::kOverwrite);
      const LinearBackwardWeight weight[] = {{vocabulary, w.logits, call.dweight, nullptr}};
      linear_backward_weight(kernels, rows, o.width, x, weight,
                             first == 0 ? Write::kOverwrite : Write::kAdd);
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
  if (call.dx != nullptr && call.tensor_group != nullptr)
    call.tensor_group->reduce_scatter_rows({call.dx, static_cast<std::size_t>(tokens * o.width)},
                                           o.width);
  return total;
}

}  // namespace tenax::compute::cpu
