// What kernels are written with: CUDA's words, in a form that a host compiler can take too. nvcc
// compiles kernels for the GPU; the tests compile the same files with g++ over an emulation of
// blocks and threads (their <cuda_runtime.h> defines TENAX_EMULATED_DEVICE and the names below), so
// that indices, barriers and sums are checked without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#ifndef TENAX_EMULATED_DEVICE
/// Queues kernel(arguments...) on `stream`; `shared_bytes` of dynamic shared memory. Errors are
/// left to cudaGetLastError().
#define TENAX_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
/// The block's dynamic shared memory as floats.
#define TENAX_DYNAMIC_SHARED(name) extern __shared__ float name[]
#endif

namespace tenax::cuda {

inline constexpr int kWarp = 32;

/// Sums over the 32 lanes in a fixed order; all lanes get the same bits. All lanes of the warp take
/// part.
__device__ inline float warp_sum(float x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, mask);
  return x;
}

__device__ inline float warp_max(float x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, x, mask);
    x = other > x ? other : x;
  }
  return x;
}

/// Blocks that give each of `count` items one of `size` places.
__host__ __device__ constexpr std::int64_t blocks_for(std::int64_t count, std::int64_t size) {
  return (count + size - 1) / size;
}

}  // namespace tenax::cuda
