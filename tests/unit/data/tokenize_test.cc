#include "data/tokenize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "data/unigram.h"
#include "temp_folder.h"

namespace tenax::data {
namespace {

std::string text_of(const std::filesystem::path& path) {
  const auto file =
      TokenFile::open(path, {TokenFile::Verify::kContent, ByteTokenizer().digest(), {}});
  EXPECT_TRUE(file) << file.error().message;
  std::string text;
  for (std::int64_t i = 0; i < file->num_tokens(); ++i) {
    const std::int32_t token = (*file)[i];
    text += token == ByteTokenizer::kEndOfDocument ? '|' : static_cast<char>(token);
  }
  return text;
}

TEST(TokenizeCorpus, EndsEveryDocumentAndEveryPartOfOne) {
  const TempFolder folder;
  const auto one = folder.write("1", "abcdefghijklmnopqrst");
  const auto two = folder.write("2", "0123456789");
  const auto corpus = tokenize_corpus({one, two}, ByteTokenizer(), {0.1, 1},
                                      {folder / "train", folder / "heldout"});
  ASSERT_TRUE(corpus) << corpus.error().message;
  EXPECT_EQ(text_of(folder / "train"), "abcdefghijklmnopq|0123456789|");
  EXPECT_EQ(text_of(folder / "heldout"), "rst|");
  EXPECT_EQ(corpus->num_documents, 2);
  EXPECT_EQ(corpus->num_bytes, 30);
  EXPECT_EQ(corpus->train.num_tokens, 29);
  EXPECT_EQ(corpus->heldout.num_tokens, 4);
}

TEST(TokenizeCorpus, LosesNoDocumentAndLeavesNoScratchFile) {
  const TempFolder folder;
  std::vector<std::filesystem::path> documents;
  std::map<std::string, int> expected;
  for (int i = 0; i < 50; ++i) {
    const std::string text(100, static_cast<char>('A' + i));
    documents.push_back(folder.write("in/" + std::to_string(i), text));
    ++expected[text];
  }
  ASSERT_TRUE(tokenize_corpus(documents, ByteTokenizer(), {0.2, 5}, {folder / "t", folder / "h"}));
  std::map<std::string, int> found;
  for (const char* file : {"t", "h"}) {
    std::string document;
    for (const char c : text_of(folder / file)) {
      if (c == '|') {
        ++found[document];
        document.clear();
      } else {
        document += c;
      }
    }
    EXPECT_EQ(document, "");
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(text_of(folder / "h").size(), 10 * 101u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 3);
}

TEST(TokenizeCorpus, ADocumentThatIsGoneIsAnError) {
  const TempFolder folder;
  const auto corpus =
      tokenize_corpus({folder / "gone"}, ByteTokenizer(), {0.1, 1}, {folder / "t", folder / "h"});
  ASSERT_FALSE(corpus);
  EXPECT_EQ(corpus.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(folder / "t"));
}

TEST(Unigram, EqualsTheFormulaByHand) {
  // Train: a a b of a vocabulary of three: p = 3/6, 2/6, 1/6. Held out: a c.
  EXPECT_DOUBLE_EQ(
      unigram_cross_entropy(std::vector<std::int64_t>{2, 1, 0}, std::vector<std::int64_t>{1, 0, 1}),
      -(std::log(3.0 / 6) + std::log(1.0 / 6)) / 2);
}

TEST(Unigram, WithoutTrainingTextIsUniform) {
  const std::vector<std::int64_t> none(257, 0);
  const std::vector<std::int64_t> heldout(257, 4);
  EXPECT_NEAR(unigram_cross_entropy(none, heldout), uniform_cross_entropy(257), 1e-12);
  EXPECT_TRUE(std::isnan(unigram_cross_entropy(heldout, none)));
}

TEST(Unigram, CountsTheTokensOfAFile) {
  const TempFolder folder;
  const auto document = folder.write("1", "abcab");
  ASSERT_TRUE(tokenize_corpus({document}, ByteTokenizer(), {0, 1}, {folder / "t", folder / "h"}));
  const auto counts = count_tokens(*TokenFile::open(folder / "t"));
  ASSERT_EQ(counts.size(), 257u);
  EXPECT_EQ(counts['a'], 2);
  EXPECT_EQ(counts['b'], 2);
  EXPECT_EQ(counts['c'], 1);
  EXPECT_EQ(counts[256], 1);
}

}  // namespace
}  // namespace tenax::data
