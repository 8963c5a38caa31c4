// LayerNorm and RMSNorm by rows; see simd16.h for the rules of this build.
#pragma once

#include "compute/cpu/simd16.h"
#include "compute/cpu/vector_ops.h"

namespace tenax::compute::cpu {
namespace {

/// sum over i of f(i, lanes), lanes first, then by halves.
template <class F>
TENAX_INLINE float sum_over(std::int64_t n, F&& f) {
  Float16 sum = {};
  for_lanes(n,
            [&](std::int64_t i, auto lanes) TENAX_LAMBDA { sum += keep(f(i, lanes), 0, lanes); });
  return sum_lanes(sum);
}

inline void norm_forward(const NormCall& c, std::int64_t begin, std::int64_t end) {
  const float inverse_n = 1.0f / static_cast<float>(c.n);
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = c.x + r * c.n;
    float* y = c.y + r * c.n;
    float mean = 0;
    if (c.mean != nullptr) {
      mean = inverse_n * sum_over(c.n, [&](std::int64_t i, auto lanes)
                                           TENAX_LAMBDA { return load(x + i, lanes); });
      c.mean[r] = mean;
    }
    const float variance = inverse_n * sum_over(c.n, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
                             const Float16 d = load(x + i, lanes) - mean;
                             return d * d;
                           });
    const float rstd = 1.0f / __builtin_sqrtf(variance + c.epsilon);
    c.rstd[r] = rstd;
    for_lanes(c.n, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      Float16 out = (load(x + i, lanes) - mean) * rstd * load(c.weight + i, lanes);
      if (c.bias != nullptr) out += load(c.bias + i, lanes);
      store(y + i, out, lanes);
    });
  }
}

inline void norm_backward(const NormCall& c, std::int64_t begin, std::int64_t end) {
  const float inverse_n = 1.0f / static_cast<float>(c.n);
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = c.x + r * c.n;
    const float* dy = c.dy + r * c.n;
    float* dx = c.dx + r * c.n;
    const float mean = c.mean != nullptr ? c.mean[r] : 0.0f;
    const float rstd = c.rstd[r];
    Float16 sum_g = {};
    Float16 sum_gx = {};
    for_lanes(c.n, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      const Float16 normed = (load(x + i, lanes) - mean) * rstd;
      const Float16 g = load(dy + i, lanes) * load(c.weight + i, lanes);
      sum_g += g;
      sum_gx += g * normed;
    });
    const float mean_g = c.mean != nullptr ? inverse_n * sum_lanes(sum_g) : 0.0f;
    const float mean_gx = inverse_n * sum_lanes(sum_gx);
    for_lanes(c.n, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      const Float16 normed = (load(x + i, lanes) - mean) * rstd;
      const Float16 g = load(dy + i, lanes) * load(c.weight + i, lanes);
      Float16 out = (g - mean_g - normed * mean_gx) * rstd;
      if (c.add_dx) out = load(dx + i, lanes) + out;
      store(dx + i, out, lanes);
    });
  }
}

inline void norm_backward_weight(const NormCall& c, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const float* x = c.x + r * c.n + begin;
    const float* dy = c.dy + r * c.n + begin;
    float* dweight = c.dweight + begin;
    float* dbias = c.dbias == nullptr ? nullptr : c.dbias + begin;
    const float mean = c.mean != nullptr ? c.mean[r] : 0.0f;
    const float rstd = c.rstd[r];
    for_lanes(end - begin, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
      const Float16 d = load(dy + i, lanes);
      const Float16 normed = (load(x + i, lanes) - mean) * rstd;
      store(dweight + i, load(dweight + i, lanes) + d * normed, lanes);
      if (dbias != nullptr) store(dbias + i, load(dbias + i, lanes) + d, lanes);
    });
  }
}

}  // namespace
}  // namespace tenax::compute::cpu
