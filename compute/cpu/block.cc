#include "compute/cpu/block.h"

#include <array>
#include <span>

namespace tenax::compute::cpu {
namespace {

/// The layer's tensors and sizes spelled out once for both directions.
class Block {
 public:
  Block(BlockContext& context, const BlockCall& call)
      : c_(context),
        o_(context.options),
        k_(context.kernels),
        w_(context.workspace),
        call_(call),
        a_(call.activations),
        tokens_(std::int64_t{call.shape.microbatch_size} * call.shape.sequence_length),
        rows_(token_rows(tokens_,
                         c_.tensor_group == nullptr ? TensorPart{} : c_.tensor_group->part())),
        query_width_(o_.num_heads * o_.head_dim),
        kv_width_(o_.num_kv_heads * o_.head_dim) {}

  void forward(float* out) {
    const bool pre = o_.norm_placement == NormPlacement::kPre;
    if (pre) norm_of_all(first_norm(call_.x), call_.at.attention_norm, a_.attention_normed);
    attend(pre ? a_.attention_normed : all_rows(call_.x, a_.whole_input));
    if (o_.parallel_block) {
      k_.copy(own_size(), call_.x, out);
      project(a_.attended, call_.at.output, query_width_, attention_site(), out);
      feed_forward(a_.attention_normed, out);
      return;
    }
    k_.copy(own_size(), call_.x, a_.middle);
    project(a_.attended, call_.at.output, query_width_, attention_site(), a_.middle);
    if (pre) {
      norm_of_all(second_norm(a_.middle), call_.at.ffn_norm, a_.ffn_normed);
      k_.copy(own_size(), a_.middle, out);
      feed_forward(a_.ffn_normed, out);
    } else {
      norm_of_all(first_norm(a_.middle), call_.at.attention_norm, a_.attention_normed);
      k_.copy(own_size(), own(a_.attention_normed), a_.ffn_sum);
      feed_forward(a_.attention_normed, a_.ffn_sum);
      norm_forward(second_norm(a_.ffn_sum), call_.at.ffn_norm, out);
    }
  }

  void recompute() {
    const bool pre = o_.norm_placement == NormPlacement::kPre;
    if (!pre) all_rows(call_.x, a_.whole_input);
    norm_of_all(first_norm(pre ? call_.x : a_.middle), call_.at.attention_norm,
                a_.attention_normed);
    if (pre && !o_.parallel_block)
      norm_of_all(second_norm(a_.middle), call_.at.ffn_norm, a_.ffn_normed);
    activate();
  }

  void backward(float* grad, float* gradient) {
    gradient_ = gradient;
    if (o_.norm_placement == NormPlacement::kPost) {
      norm_backward(second_norm(a_.ffn_sum), call_.at.ffn_norm, grad, grad, false);
      with_partial_sum(grad, [&](float* dx, Write write) {
        feed_forward_backward(projection_gradient(ffn_site(), grad), a_.attention_normed, dx,
                              write);
      });
      norm_backward(first_norm(a_.middle), call_.at.attention_norm, grad, grad, false);
      const float* x = c_.tensor_group == nullptr ? call_.x : a_.whole_input;
      with_partial_sum(grad, [&](float* dx, Write write) {
        attend_backward(projection_gradient(attention_site(), grad), x, dx, write);
      });
      return;
    }
    const float* dy = projection_gradient(ffn_site(), grad);
    if (o_.parallel_block) {
      feed_forward_backward(dy, a_.attention_normed, w_.dnormed, Write::kOverwrite);
      if (drops(attention_site())) dy = projection_gradient(attention_site(), grad);
      attend_backward(dy, a_.attention_normed, w_.dnormed, Write::kAdd);
    } else {
      feed_forward_backward(dy, a_.ffn_normed, w_.dnormed, Write::kOverwrite);
      reduce_scatter(w_.dnormed);
      norm_backward(second_norm(a_.middle), call_.at.ffn_norm, own(w_.dnormed), grad, true);
      attend_backward(projection_gradient(attention_site(), grad), a_.attention_normed, w_.dnormed,
                      Write::kOverwrite);
    }
    reduce_scatter(w_.dnormed);
    norm_backward(first_norm(call_.x), call_.at.attention_norm, own(w_.dnormed), grad, true);
  }

 private:
  const float* value(std::int64_t offset) const {
    return offset < 0 ? nullptr : call_.values + offset;
  }
  float* gradient(std::int64_t offset) const { return offset < 0 ? nullptr : gradient_ + offset; }

  /// This rank's rows of a (B, T, C) tensor.
  float* own(float* all) const { return all + rows_.begin * o_.width; }
  std::int64_t own_size() const { return rows_.size() * o_.width; }

  NormCall norm_call(const float* x, float* mean, float* rstd) const {
    NormCall call;
    call.rows = rows_.size();
    call.n = o_.width;
    call.x = x;
    call.mean = mean;
    call.rstd = rstd;
    call.epsilon = static_cast<float>(o_.norm_epsilon);
    return call;
  }
  NormCall first_norm(const float* x) const {
    return norm_call(x, a_.attention_mean, a_.attention_rstd);
  }
  NormCall second_norm(const float* x) const { return norm_call(x, a_.ffn_mean, a_.ffn_rstd); }
  KernelSpan traced(TraceKind kind) const { return {c_.trace, kind, call_.layer}; }
  void norm_forward(NormCall call, const NormOffsets& at, float* y) const {
    const KernelSpan span = traced(TraceKind::kNorm);
    call.y = y;
    call.weight = value(at.weight);
    call.bias = value(at.bias);
    k_.norm_forward(call);
  }
  /// A norm of this rank's rows into `all` (B, T, C), and of the others' by them.
  void norm_of_all(const NormCall& call, const NormOffsets& at, float* all) const {
    norm_forward(call, at, own(all));
    gather(all);
  }
  void norm_backward(NormCall call, const NormOffsets& at, const float* dy, float* dx,
                     bool add_dx) const {
    const KernelSpan span = traced(TraceKind::kNorm);
    call.weight = value(at.weight);
    call.dy = dy;
    call.dx = dx;
    call.add_dx = add_dx;
    call.dweight = gradient(at.weight);
    call.dbias = gradient(at.bias);
    k_.norm_backward(call);
  }

  LinearForward linear(const LinearOffsets& at, std::int64_t out, float* y) const {
    return {out, value(at.weight), value(at.bias), y};
  }
  const DropoutSite* attention_site() const {
    return call_.dropout == nullptr ? nullptr : &call_.dropout->attention_output;
  }
  const DropoutSite* ffn_site() const {
    return call_.dropout == nullptr ? nullptr : &call_.dropout->ffn_output;
  }
  static bool drops(const DropoutSite* site) { return site != nullptr && site->active(); }
  /// Drops numbers of a (R, C) tensor.
  void drop(const DropoutSite& site, float* x) const {
    drop_tokens(k_, site, call_.samples, call_.shape.sequence_length, rows_, o_.width, x);
  }

  /// Adds a projection of (B, T, in) to the residual stream (R, C).
  void project(const float* x, const LinearOffsets& at, std::int64_t in, const DropoutSite* site,
               float* residual) const {
    const KernelSpan span =
        traced(&at == &call_.at.output ? TraceKind::kOutputProduct : TraceKind::kFfnProducts);
    const bool alone = c_.tensor_group == nullptr;
    const auto multiply = [&](float* out, Write write) {
      const LinearForward map[] = {
          {o_.width, value(at.weight), alone ? value(at.bias) : nullptr, out}};
      linear_forward(k_, tokens_, in, x, map, write);
    };
    if (alone && !drops(site)) return multiply(residual, Write::kAdd);
    multiply(w_.projected, Write::kOverwrite);
    reduce_scatter(w_.projected);
    float* const sum = own(w_.projected);
    if (drops(site)) {
      if (!alone) add_bias(at, sum);
      drop(*site, sum);
    }
    k_.add(own_size(), sum, residual);
    if (!drops(site)) add_bias(at, residual);
  }
  void add_bias(const LinearOffsets& at, float* x) const {
    if (at.bias < 0) return;
    constexpr std::int64_t kRows = 64;
    k_.for_ranges(rows_.size(), kRows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        k_.ops.add(o_.width, value(at.bias), x + r * o_.width);
    });
  }
  /// The gradient of a projection's output (B, T, C) from that of the residual stream (R, C).
  const float* projection_gradient(const DropoutSite* site, const float* grad) const {
    if (!drops(site)) return all_rows(grad, w_.projected);
    k_.copy(own_size(), grad, own(w_.projected));
    drop(*site, own(w_.projected));
    gather(w_.projected);
    return w_.projected;
  }

  /// Of a (B, T, C) tensor: this rank's rows become sums over the ranks that hold the other heads
  /// and feed-forward parts.
  void reduce_scatter(float* all) const {
    if (c_.tensor_group == nullptr) return;
    c_.tensor_group->reduce_scatter_rows({all, static_cast<std::size_t>(tokens_ * o_.width)},
                                         o_.width);
  }
  /// Of a (B, T, C) tensor: each rank's rows, from it.
  void gather(float* all) const {
    if (c_.tensor_group == nullptr) return;
    c_.tensor_group->gather_rows({all, static_cast<std::size_t>(tokens_ * o_.width)}, o_.width);
  }
  /// All ranks' rows of x (R, C): in `all` (B, T, C), or x where this rank has them all.
  const float* all_rows(const float* x, float* all) const {
    if (c_.tensor_group == nullptr) return x;
    k_.copy(own_size(), x, own(all));
    gather(all);
    return all;
  }
  /// `f` adds to `sum` (R, C) what this rank knows of a sum over the ranks. Uses dnormed as
  /// workspace.
  template <class F>
  void with_partial_sum(float* sum, F&& f) const {
    if (c_.tensor_group == nullptr) return f(sum, Write::kAdd);
    f(w_.dnormed, Write::kOverwrite);
    reduce_scatter(w_.dnormed);
    k_.add(own_size(), own(w_.dnormed), sum);
  }
  /// A linear of x (B, T, in) with the gradient of its output (B, T, out).
  struct BackwardOf {
    const LinearOffsets& at;
    std::int64_t out;
    const float* dy;
  };
  /// Of the linears that share x, into the gradient and dx.
  template <std::size_t kCount>
  void linears_backward(const BackwardOf (&linears)[kCount], std::int64_t in, const float* x,
                        float* dx, Write write) const {
    std::array<LinearBackwardWeight, kCount> weights;
    std::array<LinearBackwardInput, kCount> inputs;
    for (std::size_t i = 0; i < kCount; ++i) {
      const auto& [at, out, dy] = linears[i];
      weights[i] = {out, dy, gradient(at.weight), gradient(at.bias)};
      inputs[i] = {out, value(at.weight), dy};
    }
    linear_backward_weight(k_, tokens_, in, x, weights, Write::kOverwrite);
    linear_backward_input(k_, tokens_, in, inputs, dx, write);
  }

  void attend(const float* x) const {
    {
      const KernelSpan span = traced(TraceKind::kQkvProducts);
      const LinearForward maps[] = {linear(call_.at.query, query_width_, a_.q),
                                    linear(call_.at.key, kv_width_, a_.k),
                                    linear(call_.at.value, kv_width_, a_.v)};
      linear_forward(k_, tokens_, o_.width, x, maps, Write::kOverwrite);
    }
    if (o_.qk_norm) {
      k_.copy(tokens_ * query_width_, a_.q, a_.raw_q);
      k_.copy(tokens_ * kv_width_, a_.k, a_.raw_k);
      norm_forward(head_norm(a_.raw_q, a_.q_mean, a_.q_rstd, o_.num_heads), call_.at.query_norm,
                   a_.q);
      norm_forward(head_norm(a_.raw_k, a_.k_mean, a_.k_rstd, o_.num_kv_heads), call_.at.key_norm,
                   a_.k);
    }
    rotate(a_.q, o_.num_heads, false);
    rotate(a_.k, o_.num_kv_heads, false);
    const KernelSpan span = traced(TraceKind::kAttention);
    attention_forward(k_, attention_shape(), attention_tensors(), w_.attention);
  }

  /// `dy` (B, T, C): of the projection's output.
  void attend_backward(const float* dy, const float* x, float* dx, Write write) const {
    {
      const KernelSpan span = traced(TraceKind::kOutputProduct);
      linears_backward({{call_.at.output, o_.width, dy}}, query_width_, a_.attended, w_.dattended,
                       Write::kOverwrite);
    }
    {
      const KernelSpan span = traced(TraceKind::kAttention);
      attention_backward(k_, attention_shape(), attention_tensors(),
                         {w_.dattended, w_.dq, w_.dk, w_.dv}, w_.attention);
    }
    rotate(w_.dq, o_.num_heads, true);
    rotate(w_.dk, o_.num_kv_heads, true);
    if (o_.qk_norm) {
      norm_backward(head_norm(a_.raw_q, a_.q_mean, a_.q_rstd, o_.num_heads), call_.at.query_norm,
                    w_.dq, w_.dq, false);
      norm_backward(head_norm(a_.raw_k, a_.k_mean, a_.k_rstd, o_.num_kv_heads), call_.at.key_norm,
                    w_.dk, w_.dk, false);
    }
    const KernelSpan span = traced(TraceKind::kQkvProducts);
    linears_backward({{call_.at.query, query_width_, w_.dq},
                      {call_.at.key, kv_width_, w_.dk},
                      {call_.at.value, kv_width_, w_.dv}},
                     o_.width, x, dx, write);
  }

  /// Adds the feed-forward's output to `residual`.
  void feed_forward(const float* x, float* residual) const {
    {
      const KernelSpan span = traced(TraceKind::kFfnProducts);
      const LinearForward maps[] = {linear(call_.at.up, o_.ffn_width, a_.up),
                                    linear(call_.at.gate, o_.ffn_width, a_.gate)};
      const std::size_t count = a_.gate != nullptr ? 2 : 1;
      linear_forward(k_, tokens_, o_.width, x, std::span(maps).first(count), Write::kOverwrite);
    }
    activate();
    project(a_.activated, call_.at.down, o_.ffn_width, ffn_site(), residual);
  }

  void activate() const {
    const KernelSpan span = traced(TraceKind::kActivation);
    ActivationCall call = activation_call();
    call.out = a_.activated;
    for_elements(call, k_.ops.activation_forward);
  }

  /// `dy` (B, T, C): of the projection's output.
  void feed_forward_backward(const float* dy, const float* x, float* dx, Write write) const {
    {
      const KernelSpan span = traced(TraceKind::kFfnProducts);
      linears_backward({{call_.at.down, o_.width, dy}}, o_.ffn_width, a_.activated, w_.dhidden,
                       Write::kOverwrite);
    }
    {
      const KernelSpan span = traced(TraceKind::kActivation);
      ActivationCall call = activation_call();
      call.dout = w_.dhidden;
      call.dup = w_.dhidden;
      call.dgate = w_.dgate;
      for_elements(call, k_.ops.activation_backward);
    }
    const KernelSpan span = traced(TraceKind::kFfnProducts);
    const BackwardOf up{call_.at.up, o_.ffn_width, w_.dhidden};
    const BackwardOf gate{call_.at.gate, o_.ffn_width, w_.dgate};
    if (a_.gate == nullptr) return linears_backward({up}, o_.width, x, dx, write);
    linears_backward({up, gate}, o_.width, x, dx, write);
  }

  /// Runs an activation's kernel on all threads.
  void for_elements(const ActivationCall& whole, void (*kernel)(const ActivationCall&)) const {
    constexpr std::int64_t kGrain = 32768;
    k_.for_ranges(whole.count, kGrain, [&](std::int64_t begin, std::int64_t end) {
      const auto at = [&](auto* p) { return p == nullptr ? nullptr : p + begin; };
      kernel({whole.function, end - begin, at(whole.up), at(whole.gate), at(whole.out),
              at(whole.dout), at(whole.dup), at(whole.dgate)});
    });
  }

  ActivationCall activation_call() const {
    ActivationCall call;
    switch (o_.activation) {
      case ActivationKind::kGeluErf:
      case ActivationKind::kGeglu:
        call.function = Pointwise::kGeluErf;
        break;
      case ActivationKind::kGeluTanh:
        call.function = Pointwise::kGeluTanh;
        break;
      case ActivationKind::kRelu:
        call.function = Pointwise::kRelu;
        break;
      case ActivationKind::kSwiglu:
        call.function = Pointwise::kSilu;
        break;
    }
    call.count = tokens_ * o_.ffn_width;
    call.up = a_.up;
    call.gate = a_.gate;
    return call;
  }

  NormCall head_norm(const float* x, float* mean, float* rstd, std::int64_t heads) const {
    NormCall call = norm_call(x, mean, rstd);
    call.rows = tokens_ * heads;
    call.n = o_.head_dim;
    return call;
  }

  void rotate(float* x, std::int64_t heads, bool inverse) const {
    if (o_.positions != PositionKind::kRope) return;
    RopeCall call;
    call.rows = tokens_;
    call.sequence_length = call_.shape.sequence_length;
    call.positions = call_.positions;
    call.heads = heads;
    call.head_dim = o_.head_dim;
    call.x = x;
    call.cosine = c_.cosine;
    call.sine = c_.sine;
    call.inverse = inverse;
    k_.ops.rope(call);
  }

  AttentionShape attention_shape() const {
    return {call_.shape.microbatch_size,
            call_.shape.sequence_length,
            o_.num_heads,
            o_.num_kv_heads,
            o_.head_dim,
            c_.slopes,
            call_.positions,
            call_.dropout == nullptr ? nullptr : &call_.dropout->probabilities,
            call_.samples,
            c_.tensor_group == nullptr ? 0 : o_.num_heads * c_.tensor_group->part().index};
  }
  AttentionTensors attention_tensors() const { return {a_.q, a_.k, a_.v, a_.attended, a_.log_sum}; }

  BlockContext& c_;
  const ModelOptions& o_;
  Kernels& k_;
  const BlockWorkspace& w_;
  const BlockCall& call_;
  const LayerActivations& a_;
  std::int64_t tokens_;
  TokenRows rows_;  ///< of the residual stream, this rank's
  std::int64_t query_width_;
  std::int64_t kv_width_;
  float* gradient_ = nullptr;
};

}  // namespace

void block_forward(BlockContext& context, const BlockCall& call, float* out) {
  Block(context, call).forward(out);
}

void block_recompute(BlockContext& context, const BlockCall& call) {
  Block(context, call).recompute();
}

void block_backward(BlockContext& context, const BlockCall& call, float* grad, float* gradient) {
  Block(context, call).backward(grad, gradient);
}

}  // namespace tenax::compute::cpu
