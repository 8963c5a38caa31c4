#include "data/tokenizer.h"

#include <gtest/gtest.h>

namespace tenax::data {
namespace {

TEST(ByteTokenizer, RoundTripsEveryByte) {
  std::string text;
  for (int b = 0; b < 256; ++b) text.push_back(static_cast<char>(b));
  const ByteTokenizer tokenizer;
  const auto ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), 256u);
  for (int b = 0; b < 256; ++b) EXPECT_EQ(ids[static_cast<std::size_t>(b)], b);
  EXPECT_EQ(tokenizer.decode(ids), text);
}

TEST(ByteTokenizer, DecodesTheEndOfADocumentToNothingAndStrangersToAReplacement) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(tokenizer.end_of_document(), tokenizer.vocabulary_size() - 1);
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{'a', 256, 'b'}), "ab");
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{257, -1}), "\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace tenax::data
