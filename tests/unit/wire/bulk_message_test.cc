#include "wire/bulk_message.h"

#include <gtest/gtest.h>

#include <vector>

namespace tenax::wire {
namespace {

std::vector<BulkMessage> one_of_each() {
  const SlotId id{1, 2, 3, 40};
  return {{"secret", BulkOffer{7, id, 8, 9, 1000}},
          {"secret", BulkCredit{7, 4}},
          {"secret", BulkPiece{7, 512, std::string("a\0b", 3)}},
          {"secret", BulkSeal{7, {5, 6}}},
          {"secret", BulkStored{7, "no room"}},
          {"secret", BulkFetch{11, id, 100, 50}},
          {"secret", BulkFetched{11, "", std::string("\0\xff", 2), 1000}}};
}

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(BulkMessage, EveryMemberComesBack) {
  for (const BulkMessage& m : one_of_each()) {
    const auto read = decode_bulk(bytes(encode(m)));
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->run_id, "secret");
    EXPECT_EQ(read->body.index(), m.body.index());
    EXPECT_EQ(encode(*read), encode(m));
  }
  const std::string piece = encode(one_of_each()[2]);
  EXPECT_EQ(std::get<BulkPiece>(decode_bulk(bytes(piece))->body).bytes, std::string("a\0b", 3));
}

TEST(BulkMessage, DamageIsAnErrorAndNeverACrash) {
  for (const BulkMessage& m : one_of_each()) {
    const std::string good = encode(m);
    for (std::size_t n = 0; n < good.size(); ++n) {
      static_cast<void>(decode_bulk(bytes(good.substr(0, n))));
      for (int bit = 0; bit < 8; ++bit) {
        std::string bad = good;
        bad[n] = static_cast<char>(bad[n] ^ (1 << bit));
        static_cast<void>(decode_bulk(bytes(bad)));
      }
    }
  }
  EXPECT_FALSE(decode_bulk(bytes(std::string(3 * kPieceBytes, '\0')))) << "too long";
}

}  // namespace
}  // namespace tenax::wire
