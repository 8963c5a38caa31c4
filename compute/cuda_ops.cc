#include "compute/cuda_ops.h"

namespace tenax::compute {
namespace {

float* at_or_null(float* gradient, std::int64_t offset) {
  return offset < 0 ? nullptr : gradient + offset;
}

}  // namespace

void CudaOps::copy_own(const std::byte* x, std::byte* out) const {
  const std::int64_t bytes = s_.own.size() * s_.width * s_.element;
  if (bytes == 0) return;
  c_.device.queue(c_.device.plugin().copy, static_cast<void*>(out), static_cast<const void*>(x),
                  static_cast<std::uint64_t>(bytes));
}

void CudaOps::gather(std::byte* all) const {
  if (c_.tensor_group == nullptr) return;
  // As they lie: a row is a whole number of floats (tensor_problems()).
  constexpr std::int64_t kFloatBytes = sizeof(float);
  c_.tensor_group->gather_rows(
      {reinterpret_cast<float*>(all), static_cast<std::size_t>(s_.rows(s_.width) / kFloatBytes)},
      s_.width * s_.element / kFloatBytes);
}

std::byte* CudaOps::all_rows(std::byte* x, std::byte* all) const {
  if (c_.tensor_group == nullptr) return x;
  copy_own(x, own(all));
  gather(all);
  return all;
}

void CudaOps::reduce_scatter() const {
  if (c_.tensor_group == nullptr) return;
  c_.tensor_group->reduce_scatter_rows(
      {c_.workspace.sum, static_cast<std::size_t>(s_.tokens * s_.width)}, s_.width);
}

void CudaOps::norm(const NormCall& n) const {
  if (s_.own.size() == 0) return;
  tenax_cuda_norm call{};
  call.type = c_.type;
  call.epsilon = static_cast<float>(c_.options.norm_epsilon);
  call.rows = s_.own.size();
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
  if (s_.own.size() == 0) return;
  tenax_cuda_norm_backward call{};
  call.type = c_.type;
  call.add_dx = add_dx ? 1 : 0;
  call.rows = s_.own.size();
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

void CudaOps::drop(const DropoutSite& site, const std::int64_t* samples, const std::byte* x,
                   std::byte* out) const {
  if (s_.own.size() == 0) return;
  tenax_cuda_dropout call{};
  call.type = c_.type;
  call.rows = s_.own.size();
  call.n = s_.width;
  call.length = s_.length;
  call.first_row = s_.own.begin;
  set_dropout(call, site, samples);
  call.x = x;
  call.out = out;
  c_.device.run(c_.device.plugin().run_dropout, call);
}

tenax_cuda_matmul CudaOps::forward_product(const Linear& map, CudaRows x) const {
  tenax_cuda_matmul call{};
  call.type = c_.type;
  call.transpose_b = 1;
  call.m = s_.tokens;
  call.n = map.out;
  call.k = call.ldb = map.in;
  call.a = x.data;
  call.lda = x.ld;
  call.b = weight(map.at.weight);
  return call;
}

void CudaOps::linear(const Linear& map, CudaRows x, CudaRows y, const std::byte* added) const {
  tenax_cuda_matmul call = forward_product(map, x);
  call.out_type = c_.type;
  call.bias = weight(map.at.bias);
  call.c = added;
  call.ldc = call.ldd = y.ld;
  call.d = y.data;
  c_.device.run(c_.device.plugin().run_matmul, call);
}

void CudaOps::linear_sum(const Linear& map, CudaRows x, float* y) const {
  tenax_cuda_matmul call = forward_product(map, x);
  call.out_type = TENAX_CUDA_F32;
  call.ldd = map.out;
  call.d = y;
  c_.device.run(c_.device.plugin().run_matmul, call);
}

void CudaOps::linear_backward_input(const Linear& map, CudaRows dy, CudaTensor dx, bool add) const {
  tenax_cuda_matmul call{};
  call.type = c_.type;
  call.out_type = dx.type;
  call.m = s_.tokens;
  call.n = call.ldb = call.ldc = call.ldd = map.in;
  call.k = map.out;
  call.a = dy.data;
  call.lda = dy.ld;
  call.b = weight(map.at.weight);
  call.c = add ? dx.data : nullptr;
  call.d = dx.data;
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

}  // namespace tenax::compute
