// The feed-forward activations, element by element; see simd16.h for the rules of this build.
#pragma once

#include "compute/cpu/simd16.h"
#include "compute/cpu/vector_ops.h"

namespace tenax::compute::cpu {
namespace {

/// Each has value(x) and slope(x), its derivative.
struct GeluErf {
  static TENAX_INLINE Float16 cdf(Float16 x) { return 0.5f + 0.5f * erf16(x * 0.70710678f); }
  static TENAX_INLINE Float16 value(Float16 x) { return x * cdf(x); }
  static TENAX_INLINE Float16 slope(Float16 x) {
    return cdf(x) + x * 0.39894228f * exp16(x * x * -0.5f);
  }
};

struct GeluTanh {
  static constexpr float kRoot = 0.79788456f;  // sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  static TENAX_INLINE Float16 inner(Float16 x) { return kRoot * (x + kCubic * (x * x * x)); }
  static TENAX_INLINE Float16 value(Float16 x) { return 0.5f * x * (1.0f + tanh16(inner(x))); }
  static TENAX_INLINE Float16 slope(Float16 x) {
    const Float16 t = tanh16(inner(x));
    const Float16 inner_slope = kRoot * (1.0f + 3.0f * kCubic * (x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner_slope;
  }
};

struct Relu {
  static TENAX_INLINE Float16 value(Float16 x) { return if_negative(x, Float16{}, x); }
  static TENAX_INLINE Float16 slope(Float16 x) {
    return if_less(Float16{}, x, splat(1.0f), Float16{});
  }
};

struct Silu {
  static TENAX_INLINE Float16 sigmoid(Float16 x) { return 1.0f / (1.0f + exp16(-x)); }
  static TENAX_INLINE Float16 value(Float16 x) { return x * sigmoid(x); }
  static TENAX_INLINE Float16 slope(Float16 x) {
    const Float16 s = sigmoid(x);
    return s + x * s * (1.0f - s);
  }
};

template <class F>
inline void activate(const ActivationCall& c) {
  for_lanes(c.count, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
    const Float16 up = load(c.up + i, lanes);
    const Float16 out = c.gate != nullptr ? F::value(load(c.gate + i, lanes)) * up : F::value(up);
    store(c.out + i, out, lanes);
  });
}

template <class F>
inline void activate_backward(const ActivationCall& c) {
  for_lanes(c.count, [&](std::int64_t i, auto lanes) TENAX_LAMBDA {
    const Float16 dout = load(c.dout + i, lanes);
    const Float16 up = load(c.up + i, lanes);
    if (c.gate == nullptr) {
      store(c.dup + i, dout * F::slope(up), lanes);
      return;
    }
    const Float16 gate = load(c.gate + i, lanes);
    store(c.dup + i, dout * F::value(gate), lanes);
    store(c.dgate + i, dout * up * F::slope(gate), lanes);
  });
}

inline void activation_forward(const ActivationCall& c) {
  switch (c.function) {
    case Pointwise::kGeluErf:
      return activate<GeluErf>(c);
    case Pointwise::kGeluTanh:
      return activate<GeluTanh>(c);
    case Pointwise::kRelu:
      return activate<Relu>(c);
    case Pointwise::kSilu:
      return activate<Silu>(c);
  }
}

inline void activation_backward(const ActivationCall& c) {
  switch (c.function) {
    case Pointwise::kGeluErf:
      return activate_backward<GeluErf>(c);
    case Pointwise::kGeluTanh:
      return activate_backward<GeluTanh>(c);
    case Pointwise::kRelu:
      return activate_backward<Relu>(c);
    case Pointwise::kSilu:
      return activate_backward<Silu>(c);
  }
}

}  // namespace
}  // namespace tenax::compute::cpu
