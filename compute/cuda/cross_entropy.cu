// Cross-entropy of rows of logits, which become their gradient in place, so that logits exist for
// one chunk of tokens at a time and never as float32 where the engine computes in BF16. One block a
// row, sums in a fixed order.
#include "compute/cuda/device_code.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

/// The largest of some numbers and the sum of exp(number - largest).
struct LogSum {
  float largest;
  float sum;
};

__device__ inline LogSum combine(LogSum a, LogSum b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, 0.0f};
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

/// Of all threads' parts; all get the same bits. `shared`: kWarps.
__device__ inline LogSum combine_block(LogSum mine, LogSum* shared) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    LogSum other;
    other.largest = __shfl_xor_sync(0xFFFFFFFFu, mine.largest, mask);
    other.sum = __shfl_xor_sync(0xFFFFFFFFu, mine.sum, mask);
    // The lower lane's part is on the left in both lanes.
    mine = (threadIdx.x & mask) == 0 ? combine(mine, other) : combine(other, mine);
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = mine;
  __syncthreads();
  LogSum all = shared[0];
  for (int w = 1; w < kWarps; ++w) all = combine(all, shared[w]);
  return all;
}

/// Columns [n, ld) lie in the last pack too, and are kept out of everything.
template <class T, int N>
__global__ void cross_entropy_kernel(tenax_cuda_cross_entropy c) {
  __shared__ LogSum shared[kWarps];
  const std::int64_t row = blockIdx.x;
  T* logits = static_cast<T*>(c.logits) + row * c.ld;
  if (c.targets[row] < 0) {  // the whole block
    if (threadIdx.x == 0) {
      if (c.loss != nullptr) c.loss[row] = c.z_term[row] = 0;
      if (c.parts != nullptr) c.parts[2 * row] = c.parts[2 * row + 1] = 0;
    }
    if (c.with_gradient == 0) return;
    for (std::int64_t i = threadIdx.x * N; i < c.ld; i += kThreads * N)
      store<T, N>(logits + i, Packed<T, N>{});
    return;
  }
  const std::int64_t target = c.targets[row] - c.first_token;
  const bool has_target = target >= 0 && target < c.n;
  double log_sum;
  LogSum all;
  if (c.log_sums != nullptr) {
    log_sum = c.log_sums[row];
    all.largest = static_cast<float>(log_sum);
    all.sum = static_cast<float>(exp(log_sum - static_cast<double>(all.largest)));
  } else {
    LogSum mine{-INFINITY, 0.0f};
    for (std::int64_t i = threadIdx.x * N; i < c.n; i += kThreads * N) {
      const auto x = load<T, N>(logits + i);
#pragma unroll
      for (int j = 0; j < N; ++j)
        if (i + j < c.n) mine = combine(mine, {x.values[j] * c.logit_scale, 1.0f});
    }
    all = combine_block(mine, shared);
    log_sum = static_cast<double>(all.largest) + log(static_cast<double>(all.sum));
    if (threadIdx.x == 0) {
      const double at_target =
          has_target ? static_cast<double>(to_float(logits[target]) * c.logit_scale) : 0.0;
      if (c.parts != nullptr) {
        c.parts[2 * row] = log_sum;
        c.parts[2 * row + 1] = at_target;
      } else {
        c.loss[row] = log_sum - at_target;
        c.z_term[row] = c.z_loss * log_sum * log_sum;
      }
    }
  }
  if (c.with_gradient == 0) return;
  const float factor =
      static_cast<float>((1.0 + 2.0 * c.z_loss * log_sum) * static_cast<double>(c.logit_scale)) /
      all.sum;
  __syncthreads();  // the logit of the target has been read
  for (std::int64_t i = threadIdx.x * N; i < c.ld; i += kThreads * N) {
    auto x = load<T, N>(logits + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float e = expf(x.values[j] * c.logit_scale - all.largest) * factor;
      x.values[j] = i + j >= c.n ? 0.0f : (i + j == target ? e - c.logit_scale : e);
    }
    store<T, N>(logits + i, x);
  }
}

template <class T, int N>
void run(const tenax_cuda_cross_entropy& c, Stream stream) {
  const auto kernel = cross_entropy_kernel<T, N>;
  TENAX_LAUNCH(kernel, static_cast<unsigned>(c.rows), kThreads, 0, stream, c);
}

}  // namespace

void launch_cross_entropy(const tenax_cuda_cross_entropy& c, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    can_be_packed<float>(c.logits, c.ld, c.ld) ? run<float, 4>(c, stream)
                                               : run<float, 1>(c, stream);
  else
    can_be_packed<Bfloat16>(c.logits, c.ld, c.ld) ? run<Bfloat16, 8>(c, stream)
                                                  : run<Bfloat16, 1>(c, stream);
}

}  // namespace tenax::cuda
