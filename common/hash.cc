#include "common/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <charconv>

#include "common/check.h"

namespace tenax {

namespace {
Hash128 from_xxh(XXH128_hash_t h) { return {h.high64, h.low64}; }
}  // namespace

std::string Hash128::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

Result<Hash128> Hash128::from_hex(std::string_view text) {
  Hash128 h;
  const auto parse = [](std::string_view digits, std::uint64_t& out) {
    const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), out, 16);
    return ec == std::errc() && end == digits.data() + digits.size();
  };
  if (text.size() != 32 || !parse(text.substr(0, 16), h.high) || !parse(text.substr(16), h.low)) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("hash '{}': expected 32 hexadecimal digits", text));
  }
  return h;
}

Hash128 hash128(std::span<const std::byte> bytes) {
  return from_xxh(XXH3_128bits(bytes.data(), bytes.size()));
}

Hash128 hash128(std::string_view text) { return from_xxh(XXH3_128bits(text.data(), text.size())); }

std::uint64_t hash64(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

struct Hasher128::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Hasher128::Hasher128() : state_(std::make_unique<State>()) {
  TENAX_CHECK(state_->xxh != nullptr);
  XXH3_128bits_reset(state_->xxh);
}
Hasher128::~Hasher128() = default;
Hasher128::Hasher128(Hasher128&&) noexcept = default;
Hasher128& Hasher128::operator=(Hasher128&&) noexcept = default;

void Hasher128::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

void Hasher128::update(std::string_view text) {
  XXH3_128bits_update(state_->xxh, text.data(), text.size());
}

Hash128 Hasher128::digest() const { return from_xxh(XXH3_128bits_digest(state_->xxh)); }

}  // namespace tenax
