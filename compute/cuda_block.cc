#include "compute/cuda_block.h"

#include <cmath>

namespace tenax::compute {
namespace {

/// The layer's tensors and sizes spelled out once for both directions.
class Block : private CudaOps {
 public:
  Block(const CudaBlockContext& context, const CudaBlockCall& call)
      : CudaOps(context, call.shape),
        o_(context.options),
        w_(context.workspace),
        call_(call),
        a_(call.kept) {}

  void forward(std::byte* out) {
    const bool pre = o_.norm_placement == NormPlacement::kPre;
    if (pre) norm_of_all(first_norm(call_.x, own(a_.attention_normed)), a_.attention_normed);
    attend(pre ? a_.attention_normed : all_rows(call_.x, a_.whole_input));
    if (o_.parallel_block) {
      project(output_map(), attended(), attention_site(), out, call_.x);
      feed_forward(a_.attention_normed, out, out);
      return;
    }
    project(output_map(), attended(), attention_site(), a_.middle, call_.x);
    if (pre) {
      norm_of_all(second_norm(a_.middle, own(a_.ffn_normed)), a_.ffn_normed);
      feed_forward(a_.ffn_normed, out, a_.middle);
    } else {
      norm_of_all(first_norm(a_.middle, own(a_.attention_normed)), a_.attention_normed);
      feed_forward(a_.attention_normed, a_.ffn_sum, own(a_.attention_normed));
      norm(second_norm(a_.ffn_sum, out));
    }
  }

  void recompute() {
    const bool pre = o_.norm_placement == NormPlacement::kPre;
    if (!pre) all_rows(call_.x, a_.whole_input);
    norm_of_all(first_norm(pre ? call_.x : a_.middle, own(a_.attention_normed)),
                a_.attention_normed);
    if (pre && !o_.parallel_block)
      norm_of_all(second_norm(a_.middle, own(a_.ffn_normed)), a_.ffn_normed);
    c_.device.run(c_.device.plugin().run_activation, activation_call());
  }

  void backward(std::byte* grad, float* gradient) {
    gradient_ = gradient;
    const auto of_feed_forward = [&](std::byte* x) {
      return [=, this](CudaTensor dx, bool add) {
        feed_forward_backward(projection_gradient(ffn_site(), grad), x, dx, add);
      };
    };
    const auto of_attention = [&](std::byte* x) {
      return [=, this](CudaTensor dx, bool add) {
        attend_backward(projection_gradient(attention_site(), grad), x, dx, add);
      };
    };
    if (o_.norm_placement == NormPlacement::kPost) {
      norm_backward(second_norm(a_.ffn_sum, nullptr), grad, grad, false, gradient_);
      sum_over_ranks(grad, true, of_feed_forward(a_.attention_normed));
      norm_backward(first_norm(a_.middle, nullptr), grad, grad, false, gradient_);
      sum_over_ranks(grad, true,
                     of_attention(c_.tensor_group == nullptr ? call_.x : a_.whole_input));
      return;
    }
    if (o_.parallel_block) {
      sum_over_ranks(w_.dnormed, false, [&](CudaTensor dx, bool add) {
        std::byte* dy = projection_gradient(ffn_site(), grad);
        feed_forward_backward(dy, a_.attention_normed, dx, add);
        if (drops(attention_site())) dy = projection_gradient(attention_site(), grad);
        attend_backward(dy, a_.attention_normed, dx, true);
      });
    } else {
      sum_over_ranks(w_.dnormed, false, of_feed_forward(a_.ffn_normed));
      norm_backward(second_norm(a_.middle, nullptr), w_.dnormed, grad, true, gradient_);
      sum_over_ranks(w_.dnormed, false, of_attention(a_.attention_normed));
    }
    norm_backward(first_norm(call_.x, nullptr), w_.dnormed, grad, true, gradient_);
  }

 private:
  NormCall first_norm(std::byte* x, std::byte* y) const {
    return {call_.at.attention_norm, x, y, a_.attention_mean, a_.attention_rstd};
  }
  NormCall second_norm(std::byte* x, std::byte* y) const {
    return {call_.at.ffn_norm, x, y, a_.ffn_mean, a_.ffn_rstd};
  }
  /// A norm of this rank's rows, whose y are its own of `all` (B, T, C), and of the others' by
  /// them.
  void norm_of_all(const NormCall& call, std::byte* all) const {
    norm(call);
    gather(all);
  }
  Linear output_map() const { return {call_.at.output, s_.query_width, s_.width}; }
  Linear down_map() const { return {call_.at.down, s_.ffn, s_.width}; }
  HeadNorm query_norm() const { return {call_.at.query_norm, 0, s_.heads, a_.q_mean, a_.q_rstd}; }
  HeadNorm key_norm() const {
    return {call_.at.key_norm, s_.heads, s_.kv_heads, a_.k_mean, a_.k_rstd};
  }

  /// A part of a packed buffer and the map that makes it.
  struct Part {
    Linear map;
    std::int64_t column = 0;
  };
  /// Several maps of one input; as one where weights (and biases) lie without gaps in the order of
  /// the columns.
  std::vector<Part> joined(std::vector<Part> parts) const {
    Part all = parts.front();
    std::int64_t weight = all.map.at.weight;
    std::int64_t bias = all.map.at.bias;
    for (const Part& part : parts) {
      if (part.map.at.weight != weight || part.map.at.bias != bias) return parts;
      weight += part.map.in * part.map.out;
      if (bias >= 0) bias += part.map.out;
    }
    all.map.out = 0;
    for (const Part& part : parts) all.map.out += part.map.out;
    return {all};
  }
  std::vector<Part> qkv_maps() const {
    const std::int64_t kv = s_.kv_heads * s_.head_dim;
    return joined({{{call_.at.query, s_.width, s_.query_width}, 0},
                   {{call_.at.key, s_.width, kv}, s_.query_width},
                   {{call_.at.value, s_.width, kv}, s_.query_width + kv}});
  }
  /// The packed columns follow the order of the tensors: gate first where there is one.
  std::vector<Part> hidden_maps() const {
    if (!gated()) return {{{call_.at.up, s_.width, s_.ffn}, 0}};
    return joined(
        {{{call_.at.gate, s_.width, s_.ffn}, 0}, {{call_.at.up, s_.width, s_.ffn}, s_.ffn}});
  }
  bool gated() const { return is_gated(o_.activation); }

  void attend(std::byte* x) const {
    for (const Part& part : qkv_maps())
      linear(part.map, {x, s_.width}, {offset(a_.qkv, part.column), s_.qkv_width});
    if (o_.qk_norm) {
      c_.device.queue(c_.device.plugin().copy, static_cast<void*>(a_.raw_qkv),
                      static_cast<const void*>(a_.qkv),
                      static_cast<std::uint64_t>(s_.rows(s_.qkv_width)));
      head_norm(query_norm(), a_.raw_qkv, a_.qkv);
      head_norm(key_norm(), a_.raw_qkv, a_.qkv);
    }
    rotate(a_.qkv, false);
    c_.device.run(c_.device.plugin().run_attention, attention_call());
  }

  /// `dy` (B, T, C): of the projection's output.
  void attend_backward(std::byte* dy, std::byte* x, CudaTensor dx, bool add) const {
    const CudaRows dout{dy, s_.width};
    linear_backward_weight(output_map(), dout, attended(), gradient_);
    linear_backward_input(output_map(), dout, {w_.dattended, c_.type}, false);
    c_.device.run(c_.device.plugin().run_attention_backward, attention_call());
    rotate(w_.dqkv, true);
    if (o_.qk_norm) {
      head_norm_backward(query_norm(), a_.raw_qkv, w_.dqkv, gradient_);
      head_norm_backward(key_norm(), a_.raw_qkv, w_.dqkv, gradient_);
    }
    for (const Part& part : qkv_maps()) {
      const CudaRows dqkv{offset(w_.dqkv, part.column), s_.qkv_width};
      linear_backward_weight(part.map, dqkv, {x, s_.width}, gradient_);
      linear_backward_input(part.map, dqkv, dx, add);
      add = true;
    }
  }

  CudaRows attended() const { return {a_.attended, s_.query_width}; }
  const DropoutSite* attention_site() const {
    return call_.dropout == nullptr ? nullptr : &call_.dropout->attention_output;
  }
  const DropoutSite* ffn_site() const {
    return call_.dropout == nullptr ? nullptr : &call_.dropout->ffn_output;
  }
  static bool drops(const DropoutSite* site) { return site != nullptr && site->active(); }

  /// out (R, C) = added + the map of x (B, T, in), summed over the ranks that share it, after
  /// dropout.
  void project(const Linear& map, CudaRows x, const DropoutSite* site, std::byte* out,
               const std::byte* added) const {
    if (c_.tensor_group == nullptr && !drops(site)) return linear(map, x, {out, s_.width}, added);
    linear_sum(map, x, w_.sum);
    reduce_scatter();
    tenax_cuda_residual call = residual_call(added, out);
    call.bias = value(map.at.bias);
    if (drops(site)) set_dropout(call, *site, call_.samples);
    residual(call);
  }
  /// The gradient of a projection's output (B, T, C) from that of the residual stream (R, C).
  std::byte* projection_gradient(const DropoutSite* site, std::byte* grad) const {
    if (!drops(site)) return all_rows(grad, w_.dprojected);
    drop(*site, call_.samples, grad, own(w_.dprojected));
    gather(w_.dprojected);
    return w_.dprojected;
  }

  /// dx (R, C) = or += what f(to, add) makes of it (B, T, C) on all ranks that share the layer.
  template <class F>
  void sum_over_ranks(std::byte* dx, bool add, F&& f) const {
    if (c_.tensor_group == nullptr) return f(CudaTensor{dx, c_.type}, add);
    f(CudaTensor{reinterpret_cast<std::byte*>(w_.sum), TENAX_CUDA_F32}, false);
    reduce_scatter();
    residual(residual_call(add ? dx : nullptr, dx));
  }
  /// out = added + this rank's rows of w_.sum, all (R, C).
  tenax_cuda_residual residual_call(const std::byte* added, std::byte* out) const {
    tenax_cuda_residual call{};
    call.type = c_.type;
    call.rows = s_.own.size();
    call.n = s_.width;
    call.length = s_.length;
    call.first_row = s_.own.begin;
    call.sum = own_sum();
    call.added = added;
    call.out = out;
    return call;
  }
  void residual(const tenax_cuda_residual& call) const {
    if (call.rows > 0) c_.device.run(c_.device.plugin().run_residual, call);
  }

  /// out = added + the feed-forward of x.
  void feed_forward(std::byte* x, std::byte* out, const std::byte* added) const {
    for (const Part& part : hidden_maps())
      linear(part.map, {x, s_.width}, {offset(a_.hidden, part.column), s_.hidden});
    c_.device.run(c_.device.plugin().run_activation, activation_call());
    project(down_map(), {a_.activated, s_.ffn}, ffn_site(), out, added);
  }

  /// `dy` (B, T, C): of the projection's output.
  void feed_forward_backward(std::byte* dy, std::byte* x, CudaTensor dx, bool add) const {
    const CudaRows dout{dy, s_.width};
    linear_backward_weight(down_map(), dout, {a_.activated, s_.ffn}, gradient_);
    linear_backward_input(down_map(), dout, {w_.dactivated, c_.type}, false);
    c_.device.run(c_.device.plugin().run_activation_backward, activation_call());
    for (const Part& part : hidden_maps()) {
      const CudaRows dhidden{offset(w_.dhidden, part.column), s_.hidden};
      linear_backward_weight(part.map, dhidden, {x, s_.width}, gradient_);
      linear_backward_input(part.map, dhidden, dx, add);
      add = true;
    }
  }

  tenax_cuda_activation activation_call() const {
    tenax_cuda_activation call{};
    call.type = c_.type;
    switch (o_.activation) {
      case ActivationKind::kGeluErf:
      case ActivationKind::kGeglu:
        call.function = TENAX_CUDA_GELU_ERF;
        break;
      case ActivationKind::kGeluTanh:
        call.function = TENAX_CUDA_GELU_TANH;
        break;
      case ActivationKind::kRelu:
        call.function = TENAX_CUDA_RELU;
        break;
      case ActivationKind::kSwiglu:
        call.function = TENAX_CUDA_SILU;
        break;
    }
    const std::int64_t up_column = gated() ? s_.ffn : 0;
    call.rows = s_.tokens;
    call.n = s_.ffn;
    call.ld = s_.hidden;
    call.ld_out = s_.ffn;
    call.ld_grad = s_.hidden;
    call.up = offset(a_.hidden, up_column);
    call.out = a_.activated;
    call.dout = w_.dactivated;
    call.dup = offset(w_.dhidden, up_column);
    if (gated()) {
      call.gate = a_.hidden;
      call.dgate = w_.dhidden;
    }
    return call;
  }

  void rotate(std::byte* qkv, bool inverse) const {
    if (o_.positions != PositionKind::kRope) return;
    tenax_cuda_rope call{};
    call.type = c_.type;
    call.inverse = inverse ? 1 : 0;
    call.rows = s_.tokens;
    call.length = call_.shape.sequence_length;
    call.heads = s_.heads + s_.kv_heads;  // keys follow the queries
    call.head_dim = s_.head_dim;
    call.ld = s_.qkv_width;
    call.x = qkv;
    call.places = call_.places;
    call.cosine = w_.cosine;
    call.sine = w_.sine;
    c_.device.run(c_.device.plugin().run_rope, call);
  }

  tenax_cuda_attention attention_call() const {
    const std::int64_t key = s_.query_width;
    const std::int64_t value = key + s_.kv_heads * s_.head_dim;
    tenax_cuda_attention call{};
    call.type = c_.type;
    call.kernels = c_.attention_kernels;
    call.batch = call_.shape.microbatch_size;
    call.length = call_.shape.sequence_length;
    call.heads = s_.heads;
    call.kv_heads = s_.kv_heads;
    call.head_dim = s_.head_dim;
    call.ld = s_.qkv_width;
    call.ld_out = s_.query_width;
    call.scale = 1.0f / std::sqrt(static_cast<float>(s_.head_dim));
    call.slopes = w_.slopes;
    call.places = call_.places;
    if (call_.dropout != nullptr && drops(&call_.dropout->probabilities)) {
      set_dropout(call, call_.dropout->probabilities, call_.samples);
      if (c_.tensor_group != nullptr) call.first_head = s_.heads * c_.tensor_group->part().index;
    }
    call.q = a_.qkv;
    call.k = offset(a_.qkv, key);
    call.v = offset(a_.qkv, value);
    call.out = a_.attended;
    call.log_sum = a_.log_sum;
    call.dout = w_.dattended;
    call.dq = w_.dqkv;
    call.dk = offset(w_.dqkv, key);
    call.dv = offset(w_.dqkv, value);
    return call;
  }

  const ModelOptions& o_;
  const CudaWorkspace& w_;
  const CudaBlockCall& call_;
  const CudaLayer& a_;
  float* gradient_ = nullptr;
};

}  // namespace

void cuda_block_forward(const CudaBlockContext& context, const CudaBlockCall& call,
                        std::byte* out) {
  Block(context, call).forward(out);
}

void cuda_block_recompute(const CudaBlockContext& context, const CudaBlockCall& call) {
  Block(context, call).recompute();
}

void cuda_block_backward(const CudaBlockContext& context, const CudaBlockCall& call,
                         std::byte* grad, float* gradient) {
  Block(context, call).backward(grad, gradient);
}

}  // namespace tenax::compute
