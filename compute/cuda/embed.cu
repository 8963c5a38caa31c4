// The embedding: rows of a table looked up, and their gradient gathered without atomics, token by
// token, in ascending order of rows as on the CPU.
#include "compute/cuda/device_code.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kThreads = 256;

/// One thread makes N elements of a row.
template <class T, int N>
__global__ void embed_kernel(tenax_cuda_embed c) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= c.rows * c.width) return;
  const std::int64_t row = at / c.width;
  const std::int64_t column = at % c.width;
  const std::int64_t token = c.tokens[row] - c.first_token;
  Packed<T, N> x{};
  if (token >= 0 && token < c.num_tokens)
    x = load<T, N>(static_cast<const T*>(c.table) + token * c.width + column);
#pragma unroll
  for (int i = 0; i < N; ++i) x.values[i] *= c.scale;
  if (c.position != nullptr) {
    const std::int64_t place = c.places != nullptr ? c.places[row] : row % c.length;
    const auto p = load<T, N>(static_cast<const T*>(c.position) + place * c.width + column);
#pragma unroll
    for (int i = 0; i < N; ++i) x.values[i] += p.values[i];
  }
  store<T, N>(static_cast<T*>(c.out) + at, x);
}

/// Block (bucket, columns): the rows of one token, added one after the other.
template <class T, int N>
__global__ void token_gradient_kernel(tenax_cuda_embed_backward c) {
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x) * N;
  if (column >= c.width) return;
  const std::int64_t bucket = blockIdx.x;
  float* out = c.dtable + c.tokens[bucket] * c.width + column;
  auto sum = load<float, N>(out);
  for (std::int32_t i = c.begins[bucket]; i < c.begins[bucket + 1]; ++i) {
    const auto x = load<T, N>(static_cast<const T*>(c.dout) + c.order[i] * c.width + column);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.values[j] += c.scale * x.values[j];
  }
  store<float, N>(out, sum);
}

/// One thread adds N columns of one position over the sequences.
template <class T, int N>
__global__ void position_gradient_kernel(tenax_cuda_embed_backward c) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const std::int64_t all = c.length * c.width;
  if (at >= all) return;
  auto sum = load<float, N>(c.dposition + at);
  for (std::int64_t i = at; i < c.rows * c.width; i += all) {
    const auto x = load<T, N>(static_cast<const T*>(c.dout) + i);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.values[j] += x.values[j];
  }
  store<float, N>(c.dposition + at, sum);
}

template <class T, int N>
void embed(const tenax_cuda_embed& c, Stream stream) {
  const auto kernel = embed_kernel<T, N>;
  const auto blocks = static_cast<unsigned>(blocks_for(c.rows * c.width, kThreads * N));
  TENAX_LAUNCH(kernel, blocks, kThreads, 0, stream, c);
}

template <class T, int N>
void embed_backward(const tenax_cuda_embed_backward& c, Stream stream) {
  const auto token_kernel = token_gradient_kernel<T, N>;
  const dim3 grid(static_cast<unsigned>(c.num_buckets),
                  static_cast<unsigned>(blocks_for(c.width, kThreads * N)));
  TENAX_LAUNCH(token_kernel, grid, kThreads, 0, stream, c);
  if (c.dposition == nullptr) return;
  const auto position_kernel = position_gradient_kernel<T, N>;
  const auto blocks = static_cast<unsigned>(blocks_for(c.length * c.width, kThreads * N));
  TENAX_LAUNCH(position_kernel, blocks, kThreads, 0, stream, c);
}

template <class T>
bool packed(const tenax_cuda_embed& c) {
  return can_be_packed<T>(c.table, c.width, c.width) && can_be_packed<T>(c.out, 0, 0) &&
         can_be_packed<T>(c.position, 0, 0);
}

}  // namespace

void launch_embed(const tenax_cuda_embed& c, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    packed<float>(c) ? embed<float, 4>(c, stream) : embed<float, 1>(c, stream);
  else
    packed<Bfloat16>(c) ? embed<Bfloat16, 8>(c, stream) : embed<Bfloat16, 1>(c, stream);
}

void launch_embed_backward(const tenax_cuda_embed_backward& c, Stream stream) {
  // 4 elements at most, as the sums are float32.
  const bool is_packed = can_be_packed<float>(c.dtable, c.width, c.width) &&
                         can_be_packed<float>(c.dposition, 0, 0) &&
                         can_be_packed<float>(c.dout, 0, 0);
  if (c.type == TENAX_CUDA_F32)
    is_packed ? embed_backward<float, 4>(c, stream) : embed_backward<float, 1>(c, stream);
  else
    is_packed ? embed_backward<Bfloat16, 4>(c, stream) : embed_backward<Bfloat16, 1>(c, stream);
}

}  // namespace tenax::cuda
