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

inline void adamw(const AdamwCall& c) {
  for (std::int64_t i = 0; i < c.count; ++i) {
    const float g = c.gradient[i] * c.gradient_scale;
    const float m = c.beta1 * c.m[i] + (1.0f - c.beta1) * g;
    const float v = c.beta2 * c.v[i] + (1.0f - c.beta2) * g * g;
    const float root = __builtin_sqrtf(v) * c.inverse_sqrt_bias2 + c.epsilon;
    c.m[i] = m;
    c.v[i] = v;
    c.values[i] = c.values[i] - c.decay * c.values[i] - c.step_size * m / root;
  }
}

}  // namespace
}  // namespace tenax::compute::cpu
