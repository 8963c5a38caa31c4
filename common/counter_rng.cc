#include "common/counter_rng.h"

#include <cmath>
#include <numbers>

namespace tenax {

Philox4 philox4x32(Philox4 c, std::array<std::uint32_t, 2> k) {
  constexpr std::uint64_t kMul0 = 0xD2511F53;
  constexpr std::uint64_t kMul1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = kMul0 * c[0];
    const std::uint64_t p1 = kMul1 * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += kWeyl0;
    k[1] += kWeyl1;
  }
  return c;
}

CounterRng::CounterRng(std::uint64_t seed, std::uint64_t stream)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
      stream_(stream) {}

std::uint64_t CounterRng::bits(std::uint64_t i) const {
  const Philox4 out =
      philox4x32({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32),
                  static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)},
                 key_);
  return (static_cast<std::uint64_t>(out[1]) << 32) | out[0];
}

float CounterRng::uniform(std::uint64_t i) const {
  return static_cast<float>(bits(i) >> 40) * 0x1.0p-24f;
}

float CounterRng::normal(std::uint64_t i) const {
  const std::uint64_t b = bits(i);
  // (0, 1]: the logarithm stays finite.
  const double u1 = (static_cast<double>(b >> 32) + 1.0) * 0x1.0p-32;
  const double u2 = static_cast<double>(b & 0xffffffffu) * 0x1.0p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2));
}

}  // namespace tenax
