// A keyed permutation of [0, size) with random access: a Feistel network over Philox, narrowed to
// the range by cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
// 2002, doi:10.1007/3-540-45760-7_9). Shuffling a corpus of any length takes no memory and no
// start-up time. Value type, immutable, any thread.
#pragma once

#include <cstdint>

namespace tenax::data {

struct PermutationKey {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;  ///< another stream of the same seed is an independent permutation
};

class KeyedPermutation {
 public:
  /// `size` must be in [1, 2^62].
  KeyedPermutation(PermutationKey key, std::uint64_t size);

  std::uint64_t size() const { return size_; }
  /// Where `i` < size goes. Fewer than four network passes on average.
  std::uint64_t operator()(std::uint64_t i) const;

 private:
  std::uint64_t network(std::uint64_t x) const;

  PermutationKey key_;
  std::uint64_t size_;
  int half_bits_;
};

}  // namespace tenax::data
