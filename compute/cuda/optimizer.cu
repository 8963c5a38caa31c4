// AdamW, sums and sums of squares in the arithmetic of the CPU engine, bit for bit: this file is
// compiled with
// --fmad=false (CMakeLists.txt), so that nothing is fused that the CPU does not fuse.
#include "compute/cuda/device_code.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kNormChunk = 4096;  // of compute/tensor_norm.h
constexpr int kNormLanes = 16;
constexpr int kNormThreads = 128;

template <int N>
__device__ void update(const tenax_cuda_adamw& c, const tenax_cuda_adamw_range& r, float decay,
                       std::int64_t at) {
  if (at >= r.count) return;
  auto w = load<float, N>(r.values + at);
  const auto gradient = load<float, N>(r.gradient + at);
  auto m = load<float, N>(r.m + at);
  auto v = load<float, N>(r.v + at);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float g = gradient.values[i] * c.gradient_scale;
    m.values[i] = c.beta1 * m.values[i] + (1.0f - c.beta1) * g;
    v.values[i] = c.beta2 * v.values[i] + (1.0f - c.beta2) * g * g;
    const float root = sqrtf(v.values[i]) * c.inverse_sqrt_bias2 + c.epsilon;
    w.values[i] = w.values[i] - decay * w.values[i] - c.step_size * m.values[i] / root;
  }
  store<float, N>(r.m + at, m);
  store<float, N>(r.v + at, v);
  store<float, N>(r.values + at, w);
  if (r.copy == nullptr) return;
  Packed<Bfloat16, N> copy;
#pragma unroll
  for (int i = 0; i < N; ++i) copy.values[i] = w.values[i];
  store<Bfloat16, N>(static_cast<Bfloat16*>(r.copy) + at, copy);
}

/// A block works on one range: the last one that begins at or before it.
__global__ void adamw_kernel(tenax_cuda_adamw c, const AdamwRow* rows, int num_rows) {
  int first = 0;
  for (int end = num_rows; end - first > 1;) {
    const int middle = first + (end - first) / 2;
    if (rows[middle].first_block <= blockIdx.x)
      first = middle;
    else
      end = middle;
  }
  const AdamwRow row = rows[first];
  const float decay = row.range.decays != 0 ? c.decay : 0.0f;
  const std::int64_t thread =
      (static_cast<std::int64_t>(blockIdx.x) - row.first_block) * kThreads + threadIdx.x;
  if (row.width == 4)
    update<4>(c, row.range, decay, thread * 4);
  else
    update<1>(c, row.range, decay, thread);
}

template <int N>
__global__ void add_kernel(const float* a, const float* b, float* sum, std::int64_t count) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= count) return;
  auto x = load<float, N>(a + at);
  const auto y = load<float, N>(b + at);
#pragma unroll
  for (int i = 0; i < N; ++i) x.values[i] += y.values[i];
  store<float, N>(sum + at, x);
}

template <class From, class To, int N>
__global__ void cast_kernel(const From* from, To* to, std::int64_t count) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= count) return;
  const auto x = load<From, N>(from + at);
  Packed<To, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y.values[i] = x.values[i];
  store<To, N>(to + at, y);
}

template <class T, int N>
__global__ void scale_kernel(T* x, float factor, std::int64_t count) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= count) return;
  auto y = load<T, N>(x + at);
#pragma unroll
  for (int i = 0; i < N; ++i) y.values[i] *= factor;
  store<T, N>(x + at, y);
}

/// Sixteen lanes a chunk, then by halves, as tensor_norm.cc adds.
__global__ void chunk_squares_kernel(const float* x, std::int64_t count, double* sums) {
  __shared__ double shared[kNormThreads];
  const int lane = threadIdx.x % kNormLanes;
  const std::int64_t chunk =
      (static_cast<std::int64_t>(blockIdx.x) * kNormThreads + threadIdx.x) / kNormLanes;
  const std::int64_t begin = chunk * kNormChunk;
  const std::int64_t end = begin + kNormChunk < count ? begin + kNormChunk : count;
  double sum = 0;
  for (std::int64_t i = begin + lane; i < end; i += kNormLanes) {
    const auto value = static_cast<double>(x[i]);
    sum += value * value;
  }
  shared[threadIdx.x] = sum;
  for (int half = kNormLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (lane == 0 && begin < count) sums[chunk] = shared[threadIdx.x];
}

unsigned blocks(std::int64_t count, int elements) {
  return static_cast<unsigned>(blocks_for(count, static_cast<std::int64_t>(kThreads) * elements));
}

template <class From, class To>
void cast(const void* from, void* to, std::int64_t count, Stream stream) {
  const auto* f = static_cast<const From*>(from);
  auto* t = static_cast<To*>(to);
  if (can_be_packed<Bfloat16>(from, count, 0) && can_be_packed<Bfloat16>(to, count, 0)) {
    const auto kernel = cast_kernel<From, To, 8>;
    TENAX_LAUNCH(kernel, blocks(count, 8), kThreads, 0, stream, f, t, count);
  } else {
    const auto kernel = cast_kernel<From, To, 1>;
    TENAX_LAUNCH(kernel, blocks(count, 1), kThreads, 0, stream, f, t, count);
  }
}

template <class T>
void scale(void* x, float factor, std::int64_t count, Stream stream) {
  if (can_be_packed<T>(x, count, 0)) {
    const auto kernel = scale_kernel<T, kFull<T>>;
    TENAX_LAUNCH(kernel, blocks(count, kFull<T>), kThreads, 0, stream, static_cast<T*>(x), factor,
                 count);
  } else {
    const auto kernel = scale_kernel<T, 1>;
    TENAX_LAUNCH(kernel, blocks(count, 1), kThreads, 0, stream, static_cast<T*>(x), factor, count);
  }
}

}  // namespace

std::int64_t adamw_rows(const tenax_cuda_adamw_range* ranges, int num_ranges, AdamwRow* rows) {
  std::int64_t num_blocks = 0;
  for (int i = 0; i < num_ranges; ++i) {
    const tenax_cuda_adamw_range& r = ranges[i];
    const bool is_packed = can_be_packed<float>(r.values, r.count, 0) &&
                           can_be_packed<float>(r.gradient, 0, 0) &&
                           can_be_packed<float>(r.m, 0, 0) && can_be_packed<float>(r.v, 0, 0) &&
                           reinterpret_cast<std::uintptr_t>(r.copy) % 8 == 0;
    rows[i] = {r, num_blocks, is_packed ? 4 : 1};
    num_blocks += blocks_for(r.count, kThreads * rows[i].width);
  }
  return num_blocks;
}

void launch_adamw(const tenax_cuda_adamw& c, const AdamwRow* rows, int num_rows,
                  std::int64_t num_blocks, Stream stream) {
  const auto kernel = adamw_kernel;
  TENAX_LAUNCH(kernel, static_cast<unsigned>(num_blocks), kThreads, 0, stream, c, rows, num_rows);
}

void launch_add(const float* a, const float* b, float* sum, std::int64_t count, Stream stream) {
  const bool is_packed = can_be_packed<float>(a, count, 0) && can_be_packed<float>(b, 0, 0) &&
                         can_be_packed<float>(sum, 0, 0);
  const auto kernel = is_packed ? add_kernel<4> : add_kernel<1>;
  TENAX_LAUNCH(kernel, blocks(count, is_packed ? 4 : 1), kThreads, 0, stream, a, b, sum, count);
}

void launch_cast(const void* from, std::int32_t from_type, void* to, std::int32_t to_type,
                 std::int64_t count, Stream stream) {
  if (from_type == TENAX_CUDA_F32 && to_type == TENAX_CUDA_BF16)
    cast<float, Bfloat16>(from, to, count, stream);
  else if (from_type == TENAX_CUDA_BF16 && to_type == TENAX_CUDA_F32)
    cast<Bfloat16, float>(from, to, count, stream);
  else if (from_type == TENAX_CUDA_F32)
    cast<float, float>(from, to, count, stream);
  else
    cast<Bfloat16, Bfloat16>(from, to, count, stream);
}

void launch_scale(void* x, std::int32_t type, float factor, std::int64_t count, Stream stream) {
  type == TENAX_CUDA_F32 ? scale<float>(x, factor, count, stream)
                         : scale<Bfloat16>(x, factor, count, stream);
}

void launch_chunk_squares(const float* x, std::int64_t count, double* sums, Stream stream) {
  const auto kernel = chunk_squares_kernel;
  const auto grid = static_cast<unsigned>(
      blocks_for(count, std::int64_t{kNormChunk} * kNormThreads / kNormLanes));
  TENAX_LAUNCH(kernel, grid, kNormThreads, 0, stream, x, count, sums);
}

}  // namespace tenax::cuda
