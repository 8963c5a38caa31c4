#include "data/permutation.h"

#include <algorithm>
#include <bit>

#include "common/check.h"
#include "common/counter_rng.h"

namespace tenax::data {

namespace {
constexpr std::uint32_t kRounds = 6;
}

KeyedPermutation::KeyedPermutation(PermutationKey key, std::uint64_t size)
    : key_(key), size_(size) {
  TENAX_CHECK(size >= 1 && size <= (std::uint64_t{1} << 62));
  half_bits_ = std::max(1, (static_cast<int>(std::bit_width(size - 1)) + 1) / 2);
}

std::uint64_t KeyedPermutation::network(std::uint64_t x) const {
  const std::uint32_t mask = static_cast<std::uint32_t>((std::uint64_t{1} << half_bits_) - 1);
  auto left = static_cast<std::uint32_t>(x >> half_bits_);
  auto right = static_cast<std::uint32_t>(x) & mask;
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    const Philox4 out = philox4x32(
        {right, round, static_cast<std::uint32_t>(key_.stream),
         static_cast<std::uint32_t>(key_.stream >> 32)},
        {static_cast<std::uint32_t>(key_.seed), static_cast<std::uint32_t>(key_.seed >> 32)});
    const std::uint32_t next = left ^ (out[0] & mask);
    left = right;
    right = next;
  }
  return (std::uint64_t{left} << half_bits_) | right;
}

std::uint64_t KeyedPermutation::operator()(std::uint64_t i) const {
  TENAX_CHECK(i < size_);
  do {
    i = network(i);
  } while (i >= size_);
  return i;
}

}  // namespace tenax::data
