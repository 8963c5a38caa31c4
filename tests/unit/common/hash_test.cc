#include "common/hash.h"

#include <gtest/gtest.h>

namespace tenax {
namespace {

// XXH3_128bits of the empty input with seed 0, from xxHash's own sanity vectors.
TEST(Hash128, OfNothingIsTheKnownValue) {
  EXPECT_EQ(hash128(std::string_view()).hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Hash128, StreamedInPiecesEqualsWhole) {
  const std::string text(100000, 'x');
  Hasher128 h;
  h.update(std::string_view(text).substr(0, 1));
  h.update(std::string_view(text).substr(1, 70000));
  h.update(std::string_view(text).substr(70001));
  EXPECT_EQ(h.digest(), hash128(text));
}

TEST(Hash128, HexRoundTripsAndRejectsGarbage) {
  const Hash128 h{0x0123456789abcdef, 0xfedcba9876543210};
  EXPECT_EQ(*Hash128::from_hex(h.hex()), h);
  EXPECT_FALSE(Hash128::from_hex("12"));
  EXPECT_FALSE(Hash128::from_hex("zz23456789abcdeffedcba9876543210"));
}

}  // namespace
}  // namespace tenax
