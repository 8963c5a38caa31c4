// Dropout of the residual stream, and what a map adds to it: element by element.
#include "compute/cuda/device_code.h"
#include "compute/cuda/dropout_mask.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kThreads = 256;

/// Multiplies N numbers of a row, the first of them at `column`.
template <class Call, class T, int N>
__device__ inline void drop(const Call& c, std::int64_t row, std::int64_t column, Packed<T, N>& x) {
  const std::int64_t token = c.first_row + row;
  const compute::DropoutRow mask = dropout_row(c.dropout_key, c.dropout_threshold, c.dropout_scale,
                                               c.samples[token / c.length], token % c.length);
#pragma unroll
  for (int i = 0; i < N; ++i)
    x.values[i] *= dropout_factor(mask, static_cast<std::uint32_t>(column + i));
}

/// One thread makes N elements of a row.
template <class T, int N>
__global__ void dropout_kernel(tenax_cuda_dropout c) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= c.rows * c.n) return;
  auto x = load<T, N>(static_cast<const T*>(c.x) + at);
  if (c.dropout_threshold > 0) drop(c, at / c.n, at % c.n, x);
  store<T, N>(static_cast<T*>(c.out) + at, x);
}

template <class T, int N>
__global__ void residual_kernel(tenax_cuda_residual c) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= c.rows * c.n) return;
  const std::int64_t column = at % c.n;
  auto x = load<float, N>(c.sum + at);
  if (c.bias != nullptr) {
    const auto bias = load<float, N>(c.bias + column);
#pragma unroll
    for (int i = 0; i < N; ++i) x.values[i] += bias.values[i];
  }
  if (c.dropout_threshold > 0) drop(c, at / c.n, column, x);
  Packed<T, N> out{};
  if (c.added != nullptr) out = load<T, N>(static_cast<const T*>(c.added) + at);
#pragma unroll
  for (int i = 0; i < N; ++i) out.values[i] += x.values[i];
  store<T, N>(static_cast<T*>(c.out) + at, out);
}

unsigned blocks_of(std::int64_t elements, int per_thread) {
  return static_cast<unsigned>(
      blocks_for(elements, static_cast<std::int64_t>(kThreads) * per_thread));
}

template <class T, int N>
void run(const tenax_cuda_dropout& c, Stream stream) {
  const auto kernel = dropout_kernel<T, N>;
  TENAX_LAUNCH(kernel, blocks_of(c.rows * c.n, N), kThreads, 0, stream, c);
}

template <class T, int N>
void run(const tenax_cuda_residual& c, Stream stream) {
  const auto kernel = residual_kernel<T, N>;
  TENAX_LAUNCH(kernel, blocks_of(c.rows * c.n, N), kThreads, 0, stream, c);
}

template <class T>
bool packed(const tenax_cuda_dropout& c) {
  return can_be_packed<T>(c.x, c.n, c.n) && can_be_packed<T>(c.out, 0, 0);
}

/// 4 elements at most, as the sums are float32.
bool packed(const tenax_cuda_residual& c) {
  return can_be_packed<float>(c.sum, c.n, c.n) && can_be_packed<float>(c.bias, 0, 0) &&
         can_be_packed<float>(c.added, 0, 0) && can_be_packed<float>(c.out, 0, 0);
}

}  // namespace

void launch_dropout(const tenax_cuda_dropout& c, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    packed<float>(c) ? run<float, 4>(c, stream) : run<float, 1>(c, stream);
  else
    packed<Bfloat16>(c) ? run<Bfloat16, 8>(c, stream) : run<Bfloat16, 1>(c, stream);
}

void launch_residual(const tenax_cuda_residual& c, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    packed(c) ? run<float, 4>(c, stream) : run<float, 1>(c, stream);
  else
    packed(c) ? run<Bfloat16, 4>(c, stream) : run<Bfloat16, 1>(c, stream);
}

}  // namespace tenax::cuda
