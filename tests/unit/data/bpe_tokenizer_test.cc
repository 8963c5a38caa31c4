#include "data/bpe_tokenizer.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>
#include <random>

#include "data/bpe_trainer.h"
#include "data/pretokenizer.h"
#include "shared_data.h"
#include "temp_folder.h"

namespace tenax::data {
namespace {

using Ids = std::vector<std::int32_t>;

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const std::size_t n = first_piece(text);
    out.emplace_back(text.substr(0, n));
    text.remove_prefix(n);
  }
  return out;
}

TEST(Pretokenizer, CutsAsThePatternSays) {
  using V = std::vector<std::string>;
  EXPECT_EQ(pieces("Hello world"), (V{"Hello", " world"}));
  EXPECT_EQ(pieces("it's we'll THEY'RE"), (V{"it", "'s", " we", "'ll", " THEY", "'", "RE"}));
  EXPECT_EQ(pieces(" 'tis"), (V{" '", "tis"}));
  EXPECT_EQ(pieces("ab12 34!? x"), (V{"ab", "12", " 34", "!?", " x"}));
  EXPECT_EQ(pieces("a   b"), (V{"a", "  ", " b"}));
  EXPECT_EQ(pieces("a\n\nb"), (V{"a", "\n", "\n", "b"}));
  EXPECT_EQ(pieces("a \n b"), (V{"a", " \n", " b"}));
  EXPECT_EQ(pieces("a \n"), (V{"a", " \n"}));
  EXPECT_EQ(pieces(" "), (V{" "}));
  EXPECT_EQ(pieces("a "), (V{"a", " "}));
}

TEST(Pretokenizer, TreatsBrokenUtf8AsSymbols) {
  using V = std::vector<std::string>;
  EXPECT_EQ(pieces("a\xff\xfe z"), (V{"a", "\xff\xfe", " z"}));
  EXPECT_EQ(pieces("\xe6\x9d"), (V{"\xe6\x9d"}));                        // cut character
  EXPECT_EQ(pieces("\xc0\x80z"), (V{"\xc0\x80", "z"}));                  // overlong zero
  EXPECT_EQ(pieces("\xed\xa0\x80z"), (V{"\xed\xa0\x80", "z"}));          // surrogate
  EXPECT_EQ(pieces("\xf4\x90\x80\x80z"), (V{"\xf4\x90\x80\x80", "z"}));  // beyond U+10FFFF
}

// The definition of training, counting everything again for each merge.
std::vector<std::pair<std::int32_t, std::int32_t>> merges_by_definition(
    const std::vector<std::string>& documents, std::size_t num_merges) {
  std::vector<Ids> words;
  for (const auto& document : documents) {
    for (const auto& piece : pieces(document)) {
      Ids& word = words.emplace_back();
      for (const char c : piece) word.push_back(static_cast<unsigned char>(c));
    }
  }
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
  std::vector<std::pair<std::int32_t, std::int32_t>> merges;
  while (merges.size() < num_merges) {
    std::map<std::pair<std::int32_t, std::int32_t>, int> count;
    for (const Ids& word : words) {
      for (std::size_t i = 0; i + 1 < word.size(); ++i) ++count[{word[i], word[i + 1]}];
    }
    std::pair<std::int32_t, std::int32_t> best{};
    int most = 1;
    for (const auto& [pair, n] : count) {
      const std::string made = tokens[static_cast<std::size_t>(pair.first)] +
                               tokens[static_cast<std::size_t>(pair.second)];
      const bool is_known = std::find(tokens.begin(), tokens.end(), made) != tokens.end();
      if (n > most && !is_known) {
        most = n;
        best = pair;
      }
    }
    if (most < 2) break;
    const auto token = static_cast<std::int32_t>(tokens.size());
    tokens.push_back(tokens[static_cast<std::size_t>(best.first)] +
                     tokens[static_cast<std::size_t>(best.second)]);
    merges.push_back(best);
    for (Ids& word : words) {
      for (std::size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] == best.first && word[i + 1] == best.second) {
          word[i] = token;
          word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
      }
    }
  }
  return merges;
}

// Encoding by applying every merge in order to the whole piece.
Ids encoded_by_definition(const BpeVocabulary& vocabulary, std::string_view text) {
  Ids ids;
  for (const auto& piece : pieces(text)) {
    Ids word;
    for (const char c : piece) {
      const auto at =
          std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), std::string(1, c));
      word.push_back(static_cast<std::int32_t>(at - vocabulary.tokens.begin()));
    }
    for (const auto& [left, right] : vocabulary.merges) {
      const std::string made = vocabulary.tokens[static_cast<std::size_t>(left)] +
                               vocabulary.tokens[static_cast<std::size_t>(right)];
      const auto token = static_cast<std::int32_t>(
          std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), made) -
          vocabulary.tokens.begin());
      for (std::size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] == left && word[i + 1] == right) {
          word[i] = token;
          word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
      }
    }
    ids.insert(ids.end(), word.begin(), word.end());
  }
  return ids;
}

std::string random_text(std::mt19937& random, std::string_view alphabet, std::size_t length) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += alphabet[random() % alphabet.size()];
  return text;
}

TEST(BpeTrainer, MergesWhatTheDefinitionMerges) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    // Few letters: many ties, runs of one letter, and strings that can be made in two ways.
    const std::vector<std::string> documents{random_text(random, "aab c", 300),
                                             random_text(random, "aa1'", 200)};
    BpeTrainer trainer;
    for (const auto& document : documents) trainer.add(document);
    const auto tokenizer = trainer.train(257 + 40);
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    ASSERT_EQ(tokenizer->vocabulary().merges, merges_by_definition(documents, 40));
    const std::string text = random_text(random, "aabc 1'", 200);
    ASSERT_EQ(tokenizer->encode(text), encoded_by_definition(tokenizer->vocabulary(), text));
  }
}

TEST(BpeTrainer, DoesNotDependOnTheOrderOfDocuments) {
  BpeTrainer forward;
  BpeTrainer backward;
  const std::vector<std::string> documents{"the cat sat", "on the mat", "that the cat ate"};
  for (auto d = documents.begin(); d != documents.end(); ++d) forward.add(*d);
  for (auto d = documents.rbegin(); d != documents.rend(); ++d) backward.add(*d);
  EXPECT_EQ(forward.train(270)->digest(), backward.train(270)->digest());
}

TEST(BpeTrainer, StopsWhenNoPairOccursTwice) {
  BpeTrainer trainer;
  trainer.add("abcd");
  EXPECT_EQ(trainer.train(1000)->vocabulary_size(), 257);
  EXPECT_EQ(BpeTrainer().train(257)->vocabulary_size(), 257);
  EXPECT_EQ(trainer.train(256).error().code, ErrorCode::kInvalidArgument);
}

TEST(BpeTokenizer, RoundTripsAnyBytes) {
  BpeTrainer trainer;
  trainer.add("the cat sat on the mat, the cat's mat\n\n  and so on");
  const auto tokenizer = trainer.train(280);
  ASSERT_TRUE(tokenizer);
  std::mt19937 random(1);
  std::string bytes;
  for (int b = 0; b < 256; ++b) bytes.push_back(static_cast<char>(b));
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_text(random, bytes, random() % 60) + " the cat's";
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
  EXPECT_EQ(tokenizer->decode(Ids{'a', tokenizer->end_of_document(), 'b'}), "ab");
  EXPECT_EQ(tokenizer->decode(Ids{-1, 1 << 20}), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer->encode(""), Ids{});
}

TEST(BpeTokenizer, EncodesAVeryLongPiece) {
  BpeTrainer trainer;
  trainer.add("aaaaaaaaaaaaaaaaaaaaaaaa");
  const auto tokenizer = trainer.train(300);
  const std::string text(300000, 'a');
  const Ids ids = tokenizer->encode(text);
  EXPECT_LT(ids.size(), text.size() / 4);
  EXPECT_EQ(tokenizer->decode(ids), text);
}

TEST(BpeTokenizer, SavesAndOpensTheSameTokenizer) {
  const TempFolder folder;
  BpeTrainer trainer;
  trainer.add("the cat sat on the mat, the cat's mat");
  const auto tokenizer = trainer.train(262);
  ASSERT_TRUE(tokenizer->save(folder / "bpe.json"));
  const auto again = BpeTokenizer::open(folder / "bpe.json");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->digest(), tokenizer->digest());
  EXPECT_EQ(again->encode("that cat"), tokenizer->encode("that cat"));
  EXPECT_NE(trainer.train(261)->digest(), tokenizer->digest());
}

TEST(BpeTokenizer, RefusesDamagedFiles) {
  const TempFolder folder;
  const auto error = [&](std::string_view text) {
    folder.write("bpe.json", text);
    const auto tokenizer = BpeTokenizer::open(folder / "bpe.json");
    if (tokenizer) return std::string("opened");
    EXPECT_EQ(tokenizer.error().code, ErrorCode::kDataLoss);
    return tokenizer.error().message.substr(
        ("tokenizer file " + (folder / "bpe.json: ").string()).size());
  };
  EXPECT_EQ(error("{"), "not JSON");
  EXPECT_EQ(error("3"), "expected the format tenax-bpe-1");
  EXPECT_EQ(error("{\"format\": \"x\", \"merges\": []}"), "expected the format tenax-bpe-1");
  EXPECT_EQ(error("{\"format\": \"tenax-bpe-1\"}"), "expected the format tenax-bpe-1");
  EXPECT_EQ(error("{\"format\": \"tenax-bpe-1\", \"merges\": [[97, 256]]}"),
            "merge 0: expected two earlier tokens, got [97,256]");
  EXPECT_EQ(error("{\"format\": \"tenax-bpe-1\", \"merges\": [[97, -1]]}"),
            "merge 0: expected two earlier tokens, got [97,-1]");
  EXPECT_EQ(error("{\"format\": \"tenax-bpe-1\", \"merges\": [[97, \"b\"]]}"),
            "merge 0: expected two earlier tokens, got [97,\"b\"]");
  EXPECT_EQ(error("{\"format\": \"tenax-bpe-1\", \"merges\": [[97, 98], [97, 98]]}"),
            "tokens 256 and 257 are the same");
}

TEST(BpeTokenizer, AMissingFileIsNamed) {
  const auto tokenizer = BpeTokenizer::open_gpt2("/nonexistent");
  ASSERT_FALSE(tokenizer);
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(tokenizer.error().message,
            "opening /nonexistent/encoder.json: No such file or directory");
}

class Gpt2 : public ::testing::Test {
 protected:
  const std::filesystem::path folder_ = shared_data("tokenizers/gpt2");
};

// Ids by tests/unit/data/gpt2_reference.py; the first two are in many tutorials.
TEST_F(Gpt2, EncodesKnownTexts) {
  TENAX_SKIP_WITHOUT(folder_);
  const auto tokenizer = BpeTokenizer::open_gpt2(folder_);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->vocabulary_size(), 50257);
  EXPECT_EQ(tokenizer->end_of_document(), 50256);
  const std::vector<std::pair<std::string, Ids>> known{
      {"Hello world", {15496, 995}},
      {"Hello, world!", {15496, 11, 995, 0}},
      {" I'll say it's they've WE'RE o'clock 'tis",
       {314, 1183, 910, 340, 338, 484, 1053, 12887, 6, 2200, 267, 6, 15750, 705, 48010}},
      {"a  b   c \n\n  d\t\te\n",
       {64, 220, 275, 220, 220, 269, 220, 628, 220, 288, 197, 197, 68, 198}},
      {"x ", {87, 220}},
      {"na\xc3\xafve caf\xc3\xa9 \xe6\x9d\xb1\xe4\xba\xac "
       "\xd0\xbc\xd0\xbe\xd1\x81\xd0\xba\xd0\xb2\xd0\xb0 \xc2\xbd\xc2\xb2\xe2\x85\xa7 42nd",
       {2616,  38776, 40304, 10545, 251,   109,   12859, 105, 12466, 120,  15166,
        21727, 31583, 38857, 16142, 25208, 31185, 158,   227, 100,   5433, 358}},
      {"\xc2\xa0\xe3\x80\x80x\xc2\xa0 y", {1849, 5099, 222, 87, 1849, 331}},
      {"\xf0\x9f\x99\x82\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd ok",
       {8582, 25081, 41840, 235, 8582, 237, 121, 12876}},
      {"''''s 't", {39115, 82, 705, 83}},
  };
  for (const auto& [text, ids] : known) {
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
}

void expect_reference_agrees(const std::filesystem::path& folder,
                             const std::filesystem::path& text) {
  const auto tokenizer = BpeTokenizer::open_gpt2(folder);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const TempFolder scratch;
  const std::string command =
      std::string("python3 " TENAX_SOURCE_DIR "/tests/unit/data/gpt2_reference.py ") +
      folder.string() + " " + text.string() + " > " + (scratch / "ids").string() + " 2> /dev/null";
  const int status = std::system(command.c_str());
  if (WEXITSTATUS(status) != 0) GTEST_SKIP() << "python3 with the package regex is not here";
  Ids expected;
  std::ifstream in(scratch / "ids");
  for (std::int32_t id = 0; in >> id;) expected.push_back(id);
  EXPECT_EQ(tokenizer->encode(bytes_of(text)), expected);
}

TEST_F(Gpt2, AgreesWithTheReferenceOnRealText) {
  const auto text = shared_data("wikitext2-valid.txt");
  TENAX_SKIP_WITHOUT(folder_);
  TENAX_SKIP_WITHOUT(text);
  expect_reference_agrees(folder_, text);
}

TEST_F(Gpt2, AgreesWithTheReferenceOnRandomUnicode) {
  TENAX_SKIP_WITHOUT(folder_);
  const TempFolder scratch;
  std::mt19937 random(7);
  std::string text;
  const auto add = [&](char32_t c) {
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += {static_cast<char>(0xc0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text += {static_cast<char>(0xe0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
               static_cast<char>(0x80 | (c & 63))};
    } else {
      text += {static_cast<char>(0xf0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 63)),
               static_cast<char>(0x80 | ((c >> 6) & 63)), static_cast<char>(0x80 | (c & 63))};
    }
  };
  // Below U+0530 every character is old enough for all versions of Unicode to agree on its class.
  constexpr std::string_view kFrequent = "  \n\t'stredlmv09.,";
  for (int i = 0; i < 50000; ++i) {
    switch (random() % 6) {
      case 0:
        add(random() % 0x530);
        break;
      case 1:
        add(0x2000 + random() % 0x100);
        break;
      case 2:
        add(0x3000 + random() % 0x90);
        break;
      case 3:
        add(0x1f300 + random() % 0x100);
        break;
      default:
        add(static_cast<char32_t>(kFrequent[random() % kFrequent.size()]));
    }
  }
  expect_reference_agrees(folder_, scratch.write("text", text));
}

}  // namespace
}  // namespace tenax::data
