// Content hashes: XXH3, 128 bits, seed 0 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
// They find accidents (flipped bits, torn files), not forgers; forgers are kept out by CURVE and
// file permissions.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"

namespace tenax {

/// 128 bits; printed as 32 hexadecimal digits, high word first (XXH128's canonical form).
struct Hash128 {
  std::uint64_t high = 0;
  std::uint64_t low = 0;

  auto operator<=>(const Hash128&) const = default;
  std::string hex() const;
  /// Fails with kInvalidArgument unless `text` is 32 hexadecimal digits.
  static Result<Hash128> from_hex(std::string_view text);
};

Hash128 hash128(std::span<const std::byte> bytes);
Hash128 hash128(std::string_view text);
/// 64-bit XXH3 of a name, used to key counter-based randomness.
std::uint64_t hash64(std::string_view text);

/// Hashes a stream given in pieces; equal to hash128 of the concatenation. Not thread safe.
class Hasher128 {
 public:
  Hasher128();
  ~Hasher128();
  Hasher128(Hasher128&&) noexcept;
  Hasher128& operator=(Hasher128&&) noexcept;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  Hash128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tenax
