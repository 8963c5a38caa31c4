// N consecutive elements loaded and stored in one access; N * sizeof(T) = 16 is what memory likes
// best. Pointers must be aligned to that size.
#pragma once

#include "compute/cuda/bfloat16.h"

namespace tenax::cuda {

/// Elements in 16 bytes.
template <class T>
inline constexpr int kFull = 16 / static_cast<int>(sizeof(T));

template <class T, int N>
struct Packed {
  float values[N];
};

template <class T, int N>
struct alignas(sizeof(T) * N) Raw {
  T elements[N];
};

/// In words of 4 bytes, so that the compiler makes one access of it.
template <int kWords>
struct alignas(4 * kWords) Words {
  std::uint32_t words[kWords];
};

template <class T, int N>
__device__ inline Packed<T, N> load(const T* p) {
  Raw<T, N> raw;
  if constexpr (sizeof(T) * N >= 4) {
    const auto words = *reinterpret_cast<const Words<sizeof(T) * N / 4>*>(p);
    std::memcpy(&raw, &words, sizeof raw);
  } else {
    raw.elements[0] = *p;
  }
  Packed<T, N> x;
#pragma unroll
  for (int i = 0; i < N; ++i) x.values[i] = to_float(raw.elements[i]);
  return x;
}

template <class T, int N>
__device__ inline void store(T* p, const Packed<T, N>& x) {
  Raw<T, N> raw;
#pragma unroll
  for (int i = 0; i < N; ++i) raw.elements[i] = stored<T>(x.values[i]);
  if constexpr (sizeof(T) * N >= 4) {
    Words<sizeof(T) * N / 4> words;
    std::memcpy(&words, &raw, sizeof raw);
    *reinterpret_cast<Words<sizeof(T) * N / 4>*>(p) = words;
  } else {
    *p = raw.elements[0];
  }
}

/// Whether rows of n elements, `ld` apart, can be read kFull<T> elements at a time from `p`.
template <class T>
bool can_be_packed(const void* p, std::int64_t n, std::int64_t ld) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && n % kFull<T> == 0 && ld % kFull<T> == 0;
}

}  // namespace tenax::cuda
