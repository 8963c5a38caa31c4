// Sixteen floats at a time in the compiler's vectors: one AVX-512 register, two of AVX2 or four of
// SSE. Every build works in the same sixteen lanes with the same operations (none fused), so all
// builds give the same bits. Included only by the kernel builds (vector_ops_*.cc); everything has
// internal linkage, as each build has its own instruction set.
#pragma once

#include <cstdint>

// All functions here are inlined: no 64-byte vector crosses a call whose convention could differ.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace tenax::compute::cpu {
namespace {

typedef float Float16 __attribute__((vector_size(64)));
typedef float UnalignedFloat16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef std::int32_t Int16 __attribute__((vector_size(64)));
typedef std::uint32_t UInt16 __attribute__((vector_size(64)));

#define TENAX_INLINE inline __attribute__((always_inline))
#define TENAX_LAMBDA __attribute__((always_inline))

inline constexpr std::int64_t kLanes = 16;

/// How many of the sixteen lanes exist in memory: all, or the last few of a row.
struct AllLanes {};
struct FirstLanes {
  std::int64_t count;
};

TENAX_INLINE Float16 load(const float* p, AllLanes) {
  return *reinterpret_cast<const UnalignedFloat16*>(p);
}
/// Missing lanes are 0.
TENAX_INLINE Float16 load(const float* p, FirstLanes lanes) {
  Float16 x = {};
  for (std::int64_t l = 0; l < lanes.count; ++l) x[l] = p[l];
  return x;
}
TENAX_INLINE void store(float* p, Float16 x, AllLanes) {
  *reinterpret_cast<UnalignedFloat16*>(p) = x;
}
TENAX_INLINE void store(float* p, Float16 x, FirstLanes lanes) {
  for (std::int64_t l = 0; l < lanes.count; ++l) p[l] = x[l];
}
/// x in lanes that exist, `otherwise` in the others.
TENAX_INLINE Float16 keep(Float16 x, float, AllLanes) { return x; }
TENAX_INLINE Float16 keep(Float16 x, float otherwise, FirstLanes lanes) {
  for (std::int64_t l = lanes.count; l < kLanes; ++l) x[l] = otherwise;
  return x;
}

/// Calls f(i, lanes) for every group of sixteen of [0, n), the last one partial if need be.
template <class F>
TENAX_INLINE void for_lanes(std::int64_t n, F&& f) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, AllLanes{});
  if (i < n) f(i, FirstLanes{n - i});
}

TENAX_INLINE Float16 splat(float x) { return x - Float16{}; }
/// a < b ? x : y in each lane. The compiler compares vectors wider than the machine's one lane at a
/// time, so this goes by native registers.
TENAX_INLINE Float16 if_less(Float16 a, Float16 b, Float16 x, Float16 y) {
#if defined(__AVX512F__)
  return a < b ? x : y;
#else
#if defined(__AVX2__)
  typedef float Native __attribute__((vector_size(32)));
#else
  typedef float Native __attribute__((vector_size(16)));
#endif
  constexpr int kParts = sizeof(Float16) / sizeof(Native);
  union Parts {
    Float16 whole;
    Native part[kParts];
  };
  const Parts pa{a}, pb{b}, px{x}, py{y};
  Parts result;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i)
    result.part[i] = pa.part[i] < pb.part[i] ? px.part[i] : py.part[i];
  return result.whole;
#endif
}

// Where a is NaN the result is NaN: clamping must not hide a broken model from the step guard.
TENAX_INLINE Float16 max16(Float16 a, Float16 b) { return if_less(a, b, b, a); }
TENAX_INLINE Float16 min16(Float16 a, Float16 b) { return if_less(b, a, b, a); }
/// x where t is negative, otherwise y.
TENAX_INLINE Float16 if_negative(Float16 t, Float16 x, Float16 y) {
  return if_less(t, Float16{}, x, y);
}

/// The lanes' sum, by halves: always the same tree.
TENAX_INLINE float sum_lanes(Float16 x) {
  float lanes[16];
  *reinterpret_cast<UnalignedFloat16*>(lanes) = x;
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}
TENAX_INLINE float max_lanes(Float16 x) {
  float largest = x[0];
  for (int l = 1; l < kLanes; ++l) largest = x[l] > largest ? x[l] : largest;
  return largest;
}

/// e^x within 2 ulp for x in [-87.3, 88], clamped outside. x = n ln 2 + r as in Cody and Waite,
/// "Software manual for the elementary functions", 1980; e^r by its series to r^7, whose rest is
/// below 6e-9 on |r| <= ln 2 / 2.
TENAX_INLINE Float16 exp16(Float16 x) {
  x = min16(max16(x, splat(-87.3f)), splat(88.0f));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  constexpr float kRound = 12582912.0f;
  const Float16 shifted = x * 1.44269504f + kRound;
  const Float16 n = shifted - kRound;
  Float16 r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Float16 p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Int16 exponent = reinterpret_cast<Int16>(shifted) - 0x4B400000 + 127;
  return p * reinterpret_cast<Float16>(exponent << 23);
}

/// tanh(x) within 1.2e-7.
TENAX_INLINE Float16 tanh16(Float16 x) {
  x = min16(max16(x, splat(-9.1f)), splat(9.1f));
  return 1.0f - 2.0f / (exp16(x + x) + 1.0f);
}

/// erf(x) within 1.2e-7: 1 - e^(-|x| q(|x|)), where q interpolates -log(erfc(x)) / x at Chebyshev
/// nodes of [0, 4]; beyond 4 the result is 1 in single precision.
TENAX_INLINE Float16 erf16(Float16 x) {
  const Float16 a = min16(if_negative(x, -x, x), splat(4.0f));
  const Float16 t = a * 0.5f - 1.0f;
  Float16 q = t * -0x1.ab3084p-14f + 0x1.1c435ep-12f;
  q = q * t + -0x1.00b670p-12f;
  q = q * t + -0x1.69441ap-14f;
  q = q * t + 0x1.601d68p-10f;
  q = q * t + -0x1.7166b4p-8f;
  q = q * t + 0x1.1ccd8ap-6f;
  q = q * t + -0x1.7878dep-5f;
  q = q * t + 0x1.c9fb14p-4f;
  q = q * t + 0x1.bc5634p+0f;
  q = q * t + 0x1.575b32p+1f;
  const Float16 y = 1.0f - exp16(-(a * q));
  return if_negative(x, -y, y);
}

}  // namespace
}  // namespace tenax::compute::cpu
