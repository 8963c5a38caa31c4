// Counter-based randomness: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as
// easy as 1, 2, 3", SC'11, doi:10.1145/2063384.2063405). A number depends only on (key, counter):
// there is no state to checkpoint, and any rank can compute any element. All randomness of a run
// (initial weights, order of samples) comes from here.
#pragma once

#include <array>
#include <cstdint>

namespace tenax {

using Philox4 = std::array<std::uint32_t, 4>;

/// One Philox4x32-10 block.
Philox4 philox4x32(Philox4 counter, std::array<std::uint32_t, 2> key);

/// A stream of numbers named by (seed, stream); element i is a pure function of all three.
class CounterRng {
 public:
  CounterRng(std::uint64_t seed, std::uint64_t stream);

  /// 64 uniform bits of element i.
  std::uint64_t bits(std::uint64_t i) const;
  /// Uniform in [0, 1), 24 bits.
  float uniform(std::uint64_t i) const;
  /// Standard normal by Box-Muller in double, rounded to float.
  float normal(std::uint64_t i) const;

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint64_t stream_;
};

}  // namespace tenax
