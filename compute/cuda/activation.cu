// Feed-forward activations, gated or not, and RoPE: element by element.
#include "compute/cuda/device_code.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kThreads = 256;

/// Each has value(x) and slope(x), its derivative.
struct GeluErf {
  static __device__ float cdf(float x) { return 0.5f + 0.5f * erff(x * 0.70710678f); }
  static __device__ float value(float x) { return x * cdf(x); }
  static __device__ float slope(float x) { return cdf(x) + x * 0.39894228f * expf(x * x * -0.5f); }
};

struct GeluTanh {
  static constexpr float kRoot = 0.79788456f;  // sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  static __device__ float inner(float x) { return kRoot * (x + kCubic * (x * x * x)); }
  static __device__ float value(float x) { return 0.5f * x * (1.0f + tanhf(inner(x))); }
  static __device__ float slope(float x) {
    const float t = tanhf(inner(x));
    const float inner_slope = kRoot * (1.0f + 3.0f * kCubic * (x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner_slope;
  }
};

struct Relu {
  static __device__ float value(float x) { return x < 0.0f ? 0.0f : x; }
  static __device__ float slope(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};

struct Silu {
  static __device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
  static __device__ float value(float x) { return x * sigmoid(x); }
  static __device__ float slope(float x) {
    const float s = sigmoid(x);
    return s + x * s * (1.0f - s);
  }
};

/// One thread makes N elements of a row.
template <class F, class T, int N>
__global__ void activation_kernel(tenax_cuda_activation c) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= c.rows * c.n) return;
  const std::int64_t row = at / c.n;
  const std::int64_t column = at % c.n;
  auto up = load<T, N>(static_cast<const T*>(c.up) + row * c.ld + column);
  if (c.gate != nullptr) {
    const auto gate = load<T, N>(static_cast<const T*>(c.gate) + row * c.ld + column);
#pragma unroll
    for (int i = 0; i < N; ++i) up.values[i] *= F::value(gate.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) up.values[i] = F::value(up.values[i]);
  }
  store<T, N>(static_cast<T*>(c.out) + row * c.ld_out + column, up);
}

template <class F, class T, int N>
__global__ void activation_gradient_kernel(tenax_cuda_activation c) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (at >= c.rows * c.n) return;
  const std::int64_t row = at / c.n;
  const std::int64_t column = at % c.n;
  const auto dout = load<T, N>(static_cast<const T*>(c.dout) + row * c.ld_out + column);
  const auto up = load<T, N>(static_cast<const T*>(c.up) + row * c.ld + column);
  Packed<T, N> dup;
  if (c.gate != nullptr) {
    const auto gate = load<T, N>(static_cast<const T*>(c.gate) + row * c.ld + column);
    Packed<T, N> dgate;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      dup.values[i] = dout.values[i] * F::value(gate.values[i]);
      dgate.values[i] = dout.values[i] * up.values[i] * F::slope(gate.values[i]);
    }
    store<T, N>(static_cast<T*>(c.dgate) + row * c.ld_grad + column, dgate);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) dup.values[i] = dout.values[i] * F::slope(up.values[i]);
  }
  store<T, N>(static_cast<T*>(c.dup) + row * c.ld_grad + column, dup);
}

/// One thread rotates N / 2 pairs of a head.
template <class T, int N>
__global__ void rope_kernel(tenax_cuda_rope c) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const std::int64_t width = c.heads * c.head_dim;
  if (at >= c.rows * width) return;
  const std::int64_t row = at / width;
  const std::int64_t column = at % width;
  const std::int64_t half = c.head_dim / 2;
  const std::int64_t place = c.places != nullptr ? c.places[row] : row % c.length;
  const std::int64_t entry = place * half + column % c.head_dim / 2;
  const float direction = c.inverse != 0 ? -1.0f : 1.0f;
  T* p = static_cast<T*>(c.x) + row * c.ld + column;
  auto x = load<T, N>(p);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const float cosine = c.cosine[entry + i];
    const float sine = direction * c.sine[entry + i];
    const float x0 = x.values[2 * i];
    const float x1 = x.values[2 * i + 1];
    x.values[2 * i] = x0 * cosine - x1 * sine;
    x.values[2 * i + 1] = x1 * cosine + x0 * sine;
  }
  store<T, N>(p, x);
}

template <class F, class T, int N>
void activate(const tenax_cuda_activation& c, bool backward, Stream stream) {
  const auto kernel = backward ? activation_gradient_kernel<F, T, N> : activation_kernel<F, T, N>;
  const auto blocks = static_cast<unsigned>(blocks_for(c.rows * c.n, kThreads * N));
  TENAX_LAUNCH(kernel, blocks, kThreads, 0, stream, c);
}

template <class T, int N>
void activate(const tenax_cuda_activation& c, bool backward, Stream stream) {
  switch (c.function) {
    case TENAX_CUDA_GELU_ERF:
      return activate<GeluErf, T, N>(c, backward, stream);
    case TENAX_CUDA_GELU_TANH:
      return activate<GeluTanh, T, N>(c, backward, stream);
    case TENAX_CUDA_RELU:
      return activate<Relu, T, N>(c, backward, stream);
    default:
      return activate<Silu, T, N>(c, backward, stream);
  }
}

template <class T>
bool packed(const tenax_cuda_activation& c, bool backward) {
  bool all = can_be_packed<T>(c.up, c.n, c.ld) && can_be_packed<T>(c.gate, 0, c.ld_out);
  if (!backward) return all && can_be_packed<T>(c.out, 0, 0);
  return all && can_be_packed<T>(c.dout, 0, 0) && can_be_packed<T>(c.dup, 0, c.ld_grad) &&
         can_be_packed<T>(c.dgate, 0, 0);
}

void activate(const tenax_cuda_activation& c, bool backward, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    packed<float>(c, backward) ? activate<float, 4>(c, backward, stream)
                               : activate<float, 1>(c, backward, stream);
  else
    packed<Bfloat16>(c, backward) ? activate<Bfloat16, 8>(c, backward, stream)
                                  : activate<Bfloat16, 1>(c, backward, stream);
}

template <class T, int N>
void rotate(const tenax_cuda_rope& c, Stream stream) {
  const auto kernel = rope_kernel<T, N>;
  const auto blocks =
      static_cast<unsigned>(blocks_for(c.rows * c.heads * c.head_dim, kThreads * N));
  TENAX_LAUNCH(kernel, blocks, kThreads, 0, stream, c);
}

}  // namespace

void launch_activation(const tenax_cuda_activation& c, Stream stream) {
  activate(c, false, stream);
}

void launch_activation_backward(const tenax_cuda_activation& c, Stream stream) {
  activate(c, true, stream);
}

void launch_rope(const tenax_cuda_rope& c, Stream stream) {
  // Pairs are never split: head_dim is even, and so is ld, a sum of heads.
  if (c.type == TENAX_CUDA_F32)
    can_be_packed<float>(c.x, c.head_dim, c.ld) ? rotate<float, 4>(c, stream)
                                                : rotate<float, 2>(c, stream);
  else
    can_be_packed<Bfloat16>(c.x, c.head_dim, c.ld) ? rotate<Bfloat16, 8>(c, stream)
                                                   : rotate<Bfloat16, 2>(c, stream);
}

}  // namespace tenax::cuda
