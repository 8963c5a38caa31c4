// LayerNorm and RMSNorm, forward (with the residual added on the way) and backward. One warp works
// on a row; what is summed over rows is summed by columns.cu.
#include "compute/cuda/columns.h"
#include "compute/cuda/device_code.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kWarps = 4;

__device__ inline std::int64_t row_begin(std::int64_t row, std::int64_t group, std::int64_t outer,
                                         std::int64_t n) {
  return row / group * outer + row % group * n;
}

template <class T, int N>
__global__ void norm_kernel(tenax_cuda_norm c) {
  const int lane = threadIdx.x % kWarp;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= c.rows) return;  // the whole warp
  const std::int64_t x_begin = row_begin(row, c.group, c.x_outer, c.n);
  const T* x = static_cast<const T*>(c.x) + x_begin;
  T* y = static_cast<T*>(c.y) + row_begin(row, c.group, c.y_outer, c.n);
  const float inverse_n = 1.0f / static_cast<float>(c.n);

  float mean = 0;
  if (c.residual != nullptr) {
    const T* residual = static_cast<const T*>(c.residual) + x_begin;
    T* sum = static_cast<T*>(c.sum) + x_begin;
    for (std::int64_t i = lane * N; i < c.n; i += kWarp * N) {
      auto s = load<T, N>(x + i);
      const auto r = load<T, N>(residual + i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        s.values[j] = to_float(stored<T>(s.values[j] + r.values[j]));
        mean += s.values[j];
      }
      store<T, N>(sum + i, s);
    }
    x = sum;  // each lane reads back only what it wrote itself
  } else if (c.mean != nullptr) {
    for (std::int64_t i = lane * N; i < c.n; i += kWarp * N) {
      const auto s = load<T, N>(x + i);
#pragma unroll
      for (int j = 0; j < N; ++j) mean += s.values[j];
    }
  }
  mean = c.mean != nullptr ? inverse_n * warp_sum(mean) : 0.0f;

  float squares = 0;
  for (std::int64_t i = lane * N; i < c.n; i += kWarp * N) {
    const auto s = load<T, N>(x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += (s.values[j] - mean) * (s.values[j] - mean);
  }
  const float rstd = 1.0f / sqrtf(inverse_n * warp_sum(squares) + c.epsilon);

  for (std::int64_t i = lane * N; i < c.n; i += kWarp * N) {
    auto s = load<T, N>(x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      s.values[j] = (s.values[j] - mean) * rstd * c.weight[i + j];
      if (c.bias != nullptr) s.values[j] += c.bias[i + j];
    }
    store<T, N>(y + i, s);
  }
  if (lane == 0) {
    if (c.mean != nullptr) c.mean[row] = mean;
    c.rstd[row] = rstd;
  }
}

template <class T, int N>
__global__ void norm_input_gradient_kernel(tenax_cuda_norm_backward c) {
  const int lane = threadIdx.x % kWarp;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= c.rows) return;  // the whole warp
  const T* x = static_cast<const T*>(c.x) + row_begin(row, c.group, c.x_outer, c.n);
  const T* dy = static_cast<const T*>(c.dy) + row_begin(row, c.group, c.dy_outer, c.n);
  T* dx = static_cast<T*>(c.dx) + row_begin(row, c.group, c.dx_outer, c.n);
  const float inverse_n = 1.0f / static_cast<float>(c.n);
  const float mean = c.mean != nullptr ? c.mean[row] : 0.0f;
  const float rstd = c.rstd[row];

  float sum_g = 0;
  float sum_gx = 0;
  for (std::int64_t i = lane * N; i < c.n; i += kWarp * N) {
    const auto s = load<T, N>(x + i);
    const auto d = load<T, N>(dy + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float g = d.values[j] * c.weight[i + j];
      sum_g += g;
      sum_gx += g * ((s.values[j] - mean) * rstd);
    }
  }
  const float mean_g = c.mean != nullptr ? inverse_n * warp_sum(sum_g) : 0.0f;
  const float mean_gx = inverse_n * warp_sum(sum_gx);

  // Every element of dy is read by the lane that writes it, before it does: dx may be dy.
  for (std::int64_t i = lane * N; i < c.n; i += kWarp * N) {
    const auto s = load<T, N>(x + i);
    const auto d = load<T, N>(dy + i);
    Packed<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float normed = (s.values[j] - mean) * rstd;
      out.values[j] = (d.values[j] * c.weight[i + j] - mean_g - normed * mean_gx) * rstd;
    }
    if (c.add_dx != 0) {
      const auto old = load<T, N>(dx + i);
#pragma unroll
      for (int j = 0; j < N; ++j) out.values[j] += old.values[j];
    }
    store<T, N>(dx + i, out);
  }
}

template <class T, int N>
void norm(const tenax_cuda_norm& c, Stream stream) {
  const auto kernel = norm_kernel<T, N>;
  TENAX_LAUNCH(kernel, static_cast<unsigned>(blocks_for(c.rows, kWarps)), kWarps * kWarp, 0, stream,
               c);
}

template <class T, int N>
void norm_backward(const tenax_cuda_norm_backward& c, float* scratch, Stream stream) {
  // First what reads dy, since dx may be dy.
  ColumnSums sums;
  sums.type = c.type;
  sums.rows = c.rows;
  sums.n = c.n;
  sums.group = c.group;
  sums.x_outer = c.x_outer;
  sums.dy_outer = c.dy_outer;
  sums.x = c.x;
  sums.dy = c.dy;
  sums.mean = c.mean;
  sums.rstd = c.rstd;
  sums.dweight = c.dweight;
  sums.dbias = c.dbias;
  launch_columns(sums, scratch, stream);
  const auto kernel = norm_input_gradient_kernel<T, N>;
  TENAX_LAUNCH(kernel, static_cast<unsigned>(blocks_for(c.rows, kWarps)), kWarps * kWarp, 0, stream,
               c);
}

template <class T>
bool packed(const tenax_cuda_norm& c) {
  return can_be_packed<T>(c.x, c.n, c.x_outer) && can_be_packed<T>(c.y, c.n, c.y_outer) &&
         can_be_packed<T>(c.residual, 0, 0) && can_be_packed<T>(c.sum, 0, 0);
}

template <class T>
bool packed(const tenax_cuda_norm_backward& c) {
  return can_be_packed<T>(c.x, c.n, c.x_outer) && can_be_packed<T>(c.dy, c.n, c.dy_outer) &&
         can_be_packed<T>(c.dx, c.n, c.dx_outer);
}

}  // namespace

void launch_norm(const tenax_cuda_norm& c, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    packed<float>(c) ? norm<float, 4>(c, stream) : norm<float, 1>(c, stream);
  else
    packed<Bfloat16>(c) ? norm<Bfloat16, 8>(c, stream) : norm<Bfloat16, 1>(c, stream);
}

void launch_norm_backward(const tenax_cuda_norm_backward& c, float* scratch, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    packed<float>(c) ? norm_backward<float, 4>(c, scratch, stream)
                     : norm_backward<float, 1>(c, scratch, stream);
  else
    packed<Bfloat16>(c) ? norm_backward<Bfloat16, 8>(c, scratch, stream)
                        : norm_backward<Bfloat16, 1>(c, scratch, stream);
}

}  // namespace tenax::cuda
