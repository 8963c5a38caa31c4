// Sums, biases, rotations and the optimizer's update; see simd16.h for the rules of this build.
#pragma once

#include "compute/cpu/simd16.h"
#include "compute/cpu/vector_ops.h"

namespace tenax::compute::cpu {
namespace {

inline void add(std::int64_t count, const float* x, float* y) {
  for_lanes(count, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
    store(y + i, load(y + i, lanes) + load(x + i, lanes), lanes);
  });
}

inline void scale(std::int64_t count, float factor, float* x) {
  for_lanes(count, [&](std::int64_t i, auto lanes)
                       TENAX_LAMBDA { store(x + i, load(x + i, lanes) * factor, lanes); });
}

inline void row_dots(std::int64_t rows, std::int64_t n, std::int64_t stride, const float* x,
                     const float* y, float* out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* a = x + r * stride;
    const float* b = y + r * stride;
    Float16 sum = {};
    for_lanes(n, [&](std::int64_t i, auto lanes)
                     TENAX_LAMBDA { sum += load(a + i, lanes) * load(b + i, lanes); });
    out[r] = sum_lanes(sum);
  }
}

/// Streams through memory read this far ahead: the processor by itself looks less far.
inline constexpr std::int64_t kStreamAhead = 512;

inline double squares(std::int64_t count, const float* x) {
  constexpr std::int64_t kHalf = kLanes / 2;
  typedef float Float8 __attribute__((vector_size(32), aligned(4), may_alias));
  typedef double Double8 __attribute__((vector_size(64)));
  Double8 sums[2] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __builtin_prefetch(x + i + kStreamAhead);
    for (std::int64_t half = 0; half < 2; ++half) {
      const Double8 value =
          __builtin_convertvector(*reinterpret_cast<const Float8*>(x + i + half * kHalf), Double8);
      sums[half] += value * value;
    }
  }
  double lanes[kLanes];
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const double value = i + lane < count ? static_cast<double>(x[i + lane]) : 0.0;
    lanes[lane] = sums[lane / kHalf][lane % kHalf] + value * value;
  }
  for (std::int64_t half = kHalf; half > 0; half /= 2)
    for (std::int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

inline void rope(const RopeCall& c) {
  const std::int64_t half = c.head_dim / 2;
  const float direction = c.inverse ? -1.0f : 1.0f;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const std::int64_t position = c.positions != nullptr ? c.positions[r] : r % c.sequence_length;
    const float* cosine = c.cosine + position * half;
    const float* sine = c.sine + position * half;
    for (std::int64_t h = 0; h < c.heads; ++h) {
      float* x = c.x + (r * c.heads + h) * c.head_dim;
      for (std::int64_t i = 0; i < half; ++i) {
        const float x0 = x[2 * i];
        const float x1 = x[2 * i + 1];
        const float s = direction * sine[i];
        x[2 * i] = x0 * cosine[i] - x1 * s;
        x[2 * i + 1] = x1 * cosine[i] + x0 * s;
      }
    }
  }
}

/// Elements [begin, begin + count).
TENAX_INLINE void adamw_part(const AdamwCall& c, std::int64_t begin, std::int64_t count) {
  float* __restrict values = c.values + begin;
  float* __restrict ms = c.m + begin;
  float* __restrict vs = c.v + begin;
  const float* __restrict gradient = c.gradient + begin;
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.gradient_scale;
    const float m = c.beta1 * ms[i] + (1.0f - c.beta1) * g;
    const float v = c.beta2 * vs[i] + (1.0f - c.beta2) * g * g;
    const float root = __builtin_sqrtf(v) * c.inverse_sqrt_bias2 + c.epsilon;
    ms[i] = m;
    vs[i] = v;
    values[i] = values[i] - c.decay * values[i] - c.step_size * m / root;
  }
}

inline void adamw(const AdamwCall& call) {
  const AdamwCall c = call;
  constexpr std::int64_t kPart = 4 * kLanes;
  std::int64_t i = 0;
  for (; i + kPart <= c.count; i += kPart) {
    for (std::int64_t line = 0; line < kPart; line += kLanes) {
      const std::int64_t ahead = i + line + kStreamAhead;
      __builtin_prefetch(c.values + ahead, 1);
      __builtin_prefetch(c.m + ahead, 1);
      __builtin_prefetch(c.v + ahead, 1);
      __builtin_prefetch(c.gradient + ahead);
    }
    adamw_part(c, i, kPart);
  }
  adamw_part(c, i, c.count - i);
}

}  // namespace
}  // namespace tenax::compute::cpu
