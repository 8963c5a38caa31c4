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
    if (pre) norm(first_norm(call_.x, a_.attention_normed));
    attend(pre ? a_.attention_normed : call_.x);
    if (o_.parallel_block) {
      project(out, call_.x);
      feed_forward(a_.attention_normed, out, out);
      return;
    }
    project(a_.middle, call_.x);
    if (pre) {
      norm(second_norm(a_.middle, a_.ffn_normed));
      feed_forward(a_.ffn_normed, out, a_.middle);
    } else {
      norm(first_norm(a_.middle, a_.attention_normed));
      feed_forward(a_.attention_normed, a_.ffn_sum, a_.attention_normed);
      norm(second_norm(a_.ffn_sum, out));
    }
  }

  void backward(std::byte* grad, float* gradient) {
    gradient_ = gradient;
    if (o_.norm_placement == NormPlacement::kPost) {
      norm_backward(second_norm(a_.ffn_sum, nullptr), grad, grad, false, gradient_);
      feed_forward_backward(grad, a_.attention_normed, grad, true);
      norm_backward(first_norm(a_.middle, nullptr), grad, grad, false, gradient_);
      attend_backward(grad, call_.x, grad, true);
      return;
    }
    if (o_.parallel_block) {
      feed_forward_backward(grad, a_.attention_normed, w_.dnormed, false);
      attend_backward(grad, a_.attention_normed, w_.dnormed, true);
    } else {
      feed_forward_backward(grad, a_.ffn_normed, w_.dnormed, false);
      norm_backward(second_norm(a_.middle, nullptr), w_.dnormed, grad, true, gradient_);
      attend_backward(grad, a_.attention_normed, w_.dnormed, false);
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

  void attend_backward(std::byte* grad, std::byte* x, std::byte* dx, bool add) const {
    linear_backward_weight(output_map(), {grad, s_.width}, {a_.attended, s_.query_width},
                           gradient_);
    linear_backward_input(output_map(), {grad, s_.width}, w_.dattended, false);
    c_.device.run(c_.device.plugin().run_attention_backward, attention_call());
    rotate(w_.dqkv, true);
    if (o_.qk_norm) {
      head_norm_backward(query_norm(), a_.raw_qkv, w_.dqkv, gradient_);
      head_norm_backward(key_norm(), a_.raw_qkv, w_.dqkv, gradient_);
    }
    for (const Part& part : qkv_maps()) {
      const CudaRows dy{offset(w_.dqkv, part.column), s_.qkv_width};
      linear_backward_weight(part.map, dy, {x, s_.width}, gradient_);
      linear_backward_input(part.map, dy, dx, add);
      add = true;
    }
  }

  /// out = added + the projection of what attention gave.
  void project(std::byte* out, const std::byte* added) const {
    linear(output_map(), {a_.attended, s_.query_width}, {out, s_.width}, added);
  }

  /// out = added + the feed-forward of x.
  void feed_forward(std::byte* x, std::byte* out, const std::byte* added) const {
    for (const Part& part : hidden_maps())
      linear(part.map, {x, s_.width}, {offset(a_.hidden, part.column), s_.hidden});
    c_.device.run(c_.device.plugin().run_activation, activation_call());
    linear(down_map(), {a_.activated, s_.ffn}, {out, s_.width}, added);
  }

  void feed_forward_backward(std::byte* grad, std::byte* x, std::byte* dx, bool add) const {
    linear_backward_weight(down_map(), {grad, s_.width}, {a_.activated, s_.ffn}, gradient_);
    linear_backward_input(down_map(), {grad, s_.width}, w_.dactivated, false);
    c_.device.run(c_.device.plugin().run_activation_backward, activation_call());
    for (const Part& part : hidden_maps()) {
      const CudaRows dy{offset(w_.dhidden, part.column), s_.hidden};
      linear_backward_weight(part.map, dy, {x, s_.width}, gradient_);
      linear_backward_input(part.map, dy, dx, add);
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

float* at_or_null(float* gradient, std::int64_t offset) {
  return offset < 0 ? nullptr : gradient + offset;
}

}  // namespace

void CudaOps::norm(const NormCall& n) const {
  tenax_cuda_norm call{};
  call.type = c_.type;
  call.epsilon = static_cast<float>(c_.options.norm_epsilon);
  call.rows = s_.tokens;
  call.n = call.x_outer = call.y_outer = s_.width;
  call.group = 1;
  call.x = n.x;
  call.weight = value(n.at.weight);
  call.bias = value(n.at.bias);
  call.mean = n.mean;
  call.rstd = n.rstd;
  call.y = n.y;
  c_.device.run(c_.device.plugin().run_norm, call);
}

void CudaOps::norm_backward(const NormCall& n, std::byte* dy, std::byte* dx, bool add_dx,
                            float* gradient) const {
  tenax_cuda_norm_backward call{};
  call.type = c_.type;
  call.add_dx = add_dx ? 1 : 0;
  call.rows = s_.tokens;
  call.n = call.x_outer = call.dy_outer = call.dx_outer = s_.width;
  call.group = 1;
  call.x = n.x;
  call.dy = dy;
  call.weight = value(n.at.weight);
  call.mean = n.mean;
  call.rstd = n.rstd;
  call.dx = dx;
  call.dweight = at_or_null(gradient, n.at.weight);
  call.dbias = at_or_null(gradient, n.at.bias);
  c_.device.run(c_.device.plugin().run_norm_backward, call);
}

void CudaOps::head_norm(const HeadNorm& n, std::byte* raw, std::byte* out) const {
  tenax_cuda_norm call{};
  call.type = c_.type;
  call.epsilon = static_cast<float>(c_.options.norm_epsilon);
  call.rows = s_.tokens * n.heads;
  call.n = s_.head_dim;
  call.group = n.heads;
  call.x_outer = call.y_outer = s_.qkv_width;
  call.x = offset(raw, n.first_head * s_.head_dim);
  call.weight = value(n.at.weight);
  call.bias = value(n.at.bias);
  call.mean = n.mean;
  call.rstd = n.rstd;
  call.y = offset(out, n.first_head * s_.head_dim);
  c_.device.run(c_.device.plugin().run_norm, call);
}

void CudaOps::head_norm_backward(const HeadNorm& n, std::byte* raw, std::byte* grad,
                                 float* gradient) const {
  tenax_cuda_norm_backward call{};
  call.type = c_.type;
  call.rows = s_.tokens * n.heads;
  call.n = s_.head_dim;
  call.group = n.heads;
  call.x_outer = call.dy_outer = call.dx_outer = s_.qkv_width;
  call.x = offset(raw, n.first_head * s_.head_dim);
  call.dy = offset(grad, n.first_head * s_.head_dim);
  call.weight = value(n.at.weight);
  call.mean = n.mean;
  call.rstd = n.rstd;
  call.dx = offset(grad, n.first_head * s_.head_dim);
  call.dweight = at_or_null(gradient, n.at.weight);
  call.dbias = at_or_null(gradient, n.at.bias);
  c_.device.run(c_.device.plugin().run_norm_backward, call);
}

void CudaOps::linear(const Linear& map, CudaRows x, CudaRows y, const std::byte* added) const {
  tenax_cuda_matmul call{};
  call.type = call.out_type = c_.type;
  call.transpose_b = 1;
  call.m = s_.tokens;
  call.n = map.out;
  call.k = call.ldb = map.in;
  call.a = x.data;
  call.lda = x.ld;
  call.b = weight(map.at.weight);
  call.bias = weight(map.at.bias);
  call.c = added;
  call.ldc = call.ldd = y.ld;
  call.d = y.data;
  c_.device.run(c_.device.plugin().run_matmul, call);
}

void CudaOps::linear_backward_input(const Linear& map, CudaRows dy, std::byte* dx, bool add) const {
  tenax_cuda_matmul call{};
  call.type = call.out_type = c_.type;
  call.m = s_.tokens;
  call.n = call.ldb = call.ldc = call.ldd = map.in;
  call.k = map.out;
  call.a = dy.data;
  call.lda = dy.ld;
  call.b = weight(map.at.weight);
  call.c = add ? dx : nullptr;
  call.d = dx;
  c_.device.run(c_.device.plugin().run_matmul, call);
}

void CudaOps::linear_backward_weight(const Linear& map, CudaRows dy, CudaRows x,
                                     float* gradient) const {
  tenax_cuda_matmul call{};
  call.type = c_.type;
  call.out_type = TENAX_CUDA_F32;
  call.transpose_a = 1;
  call.m = map.out;
  call.n = call.ldc = call.ldd = map.in;
  call.k = s_.tokens;
  call.a = dy.data;
  call.lda = dy.ld;
  call.b = x.data;
  call.ldb = x.ld;
  call.c = call.d = gradient + map.at.weight;
  call.bias_gradient = at_or_null(gradient, map.at.bias);
  c_.device.run(c_.device.plugin().run_matmul, call);
}

void cuda_block_forward(const CudaBlockContext& context, const CudaBlockCall& call,
                        std::byte* out) {
  Block(context, call).forward(out);
}

void cuda_block_backward(const CudaBlockContext& context, const CudaBlockCall& call,
                         std::byte* grad, float* gradient) {
  Block(context, call).backward(grad, gradient);
}

}  // namespace tenax::compute
