#include "data/token_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <numeric>

#include "data/token_file_writer.h"
#include "temp_folder.h"

namespace tenax::data {
namespace {

const Hash128 kTokenizer{1, 2};

TokenFileInfo write_tokens(const std::filesystem::path& path, std::int64_t vocabulary_size,
                           const std::vector<std::int32_t>& tokens) {
  auto writer = TokenFileWriter::create(path, {vocabulary_size, kTokenizer});
  EXPECT_TRUE(writer) << writer.error().message;
  const auto half = std::span(tokens).first(tokens.size() / 2);
  EXPECT_TRUE(writer->append(half));
  EXPECT_TRUE(writer->append(std::span(tokens).subspan(half.size())));
  auto info = writer->finish();
  EXPECT_TRUE(info) << info.error().message;
  return *info;
}

std::vector<std::int32_t> counting(int n) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(n));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

std::vector<std::int32_t> all_of(const TokenFile& file) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.num_tokens()));
  file.read(0, tokens);
  return tokens;
}

std::string open_error(const std::filesystem::path& path, ErrorCode code,
                       const TokenFile::OpenOptions& options = {}) {
  const auto file = TokenFile::open(path, options);
  if (file) {
    ADD_FAILURE() << path << " opened";
    return {};
  }
  EXPECT_EQ(file.error().code, code) << file.error().message;
  return file.error().message;
}

TEST(TokenFile, GivesBackWhatWasWritten) {
  const TempFolder folder;
  // More than one megabyte, so that the writer's buffer is flushed in between.
  for (const std::int64_t vocabulary : {65536, 700000}) {
    std::vector<std::int32_t> tokens = counting(60000);
    for (int i = 0; i < 4; ++i)
      tokens.insert(tokens.end(), tokens.begin(), tokens.begin() + 60000 * (1 << i));
    const auto info = write_tokens(folder / "t", vocabulary, tokens);
    const auto file =
        TokenFile::open(folder / "t", {TokenFile::Verify::kContent, kTokenizer, info.content_hash});
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->info(), info);
    EXPECT_EQ(info.token_width_bytes, vocabulary == 65536 ? 2 : 4);
    EXPECT_EQ(all_of(*file), tokens);
    EXPECT_EQ((*file)[60001], 1);
    EXPECT_EQ(std::filesystem::file_size(folder / "t"),
              80 + tokens.size() * static_cast<std::size_t>(info.token_width_bytes));
  }
}

TEST(TokenFile, KeepsTheLargestTwoByteToken) {
  const TempFolder folder;
  write_tokens(folder / "t", 65536, {65535, 0, 32768});
  EXPECT_EQ(all_of(*TokenFile::open(folder / "t")), (std::vector<std::int32_t>{65535, 0, 32768}));
}

TEST(TokenFile, MayBeEmpty) {
  const TempFolder folder;
  write_tokens(folder / "t", 257, {});
  const auto file = TokenFile::open(folder / "t", {TokenFile::Verify::kContent, {}, {}});
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->num_tokens(), 0);
}

TEST(TokenFile, EqualTokensAndTokenizerGiveEqualBytes) {
  const TempFolder folder;
  write_tokens(folder / "a", 257, counting(100));
  write_tokens(folder / "b", 257, counting(100));
  EXPECT_EQ(bytes_of(folder / "a"), bytes_of(folder / "b"));
}

TEST(TokenFile, FindsEveryFlippedBit) {
  const TempFolder folder;
  write_tokens(folder / "t", 257, counting(20));
  const std::string sound = bytes_of(folder / "t");
  ASSERT_EQ(sound.size(), 120u);
  for (std::size_t bit = 0; bit < sound.size() * 8; ++bit) {
    std::string bytes = sound;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    folder.write("flipped", bytes);
    const auto file = TokenFile::open(folder / "flipped", {TokenFile::Verify::kContent, {}, {}});
    ASSERT_FALSE(file) << "bit " << bit;
    const bool in_version = bit / 8 >= 8 && bit / 8 < 12;
    ASSERT_EQ(file.error().code, in_version ? ErrorCode::kUnsupported : ErrorCode::kDataLoss)
        << file.error().message;
  }
}

TEST(TokenFile, FindsEveryTruncation) {
  const TempFolder folder;
  write_tokens(folder / "t", 257, counting(20));
  const std::string sound = bytes_of(folder / "t");
  for (std::size_t n = 0; n < sound.size(); ++n) {
    folder.write("short", sound.substr(0, n));
    open_error(folder / "short", ErrorCode::kDataLoss);
  }
  folder.write("long", sound + "x");
  open_error(folder / "long", ErrorCode::kDataLoss);
}

TEST(TokenFile, SaysWhatIsWrong) {
  const TempFolder folder;
  write_tokens(folder / "t", 257, counting(20));
  const std::string at = folder.path().string();
  EXPECT_EQ(open_error(folder / "none", ErrorCode::kNotFound),
            "opening token file " + at + "/none: No such file or directory");
  folder.write("text", std::string(200, 'x'));
  EXPECT_EQ(open_error(folder / "text", ErrorCode::kDataLoss),
            "token file " + at + "/text: not a token file (no TENAXTOK at its start)");
  folder.write("short", bytes_of(folder / "t").substr(0, 90));
  EXPECT_EQ(
      open_error(folder / "short", ErrorCode::kDataLoss),
      "token file " + at + "/short: expected 20 tokens of 2 bytes after the header, got 10 bytes");
  EXPECT_EQ(open_error(folder / "t", ErrorCode::kInvalidArgument,
                       {TokenFile::Verify::kHeader, Hash128{1, 3}, {}}),
            "token file " + at +
                "/t: made with another tokenizer (expected 00000000000000010000000000000003, got "
                "00000000000000010000000000000002)");
  open_error(folder / "t", ErrorCode::kInvalidArgument,
             {TokenFile::Verify::kHeader, {}, Hash128{1, 3}});
}

TEST(TokenFileWriter, RefusesTokensOutsideTheVocabulary) {
  const TempFolder folder;
  for (const std::int32_t token : {-1, 257, 1 << 20}) {
    auto writer = TokenFileWriter::create(folder / "t", {257, kTokenizer});
    ASSERT_TRUE(writer);
    const auto status = writer->append(std::vector<std::int32_t>{5, token});
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(status.error().message, "token file " + (folder / "t").string() + ": token " +
                                          std::to_string(token) +
                                          " at index 1 is outside the vocabulary of 257");
  }
}

TEST(TokenFileWriter, LeavesTheOldFileUntilItIsFinishedAndNothingBehindWhenItIsNot) {
  const TempFolder folder;
  write_tokens(folder / "t", 257, {1, 2, 3});
  {
    auto writer = TokenFileWriter::create(folder / "t", {257, kTokenizer});
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->append(counting(200)));
    EXPECT_EQ(TokenFile::open(folder / "t")->num_tokens(), 3);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
  }
  EXPECT_EQ(TokenFile::open(folder / "t")->num_tokens(), 3);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(TokenFileWriter, ReportsAFileThatCannotGrowAndLeavesNothingBehind) {
  const TempFolder folder;
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 1000;
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  Status status;
  {
    auto writer = TokenFileWriter::create(folder / "t", {257, kTokenizer});
    ASSERT_TRUE(writer);
    status = writer->append(std::vector<std::int32_t>(2000, 1));
    if (status) {
      const auto finished = writer->finish();
      if (!finished) status = finished.error();
    }
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, old_handler);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kNoSpace);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TokenFileWriter, ReportsAFolderThatIsNotThere) {
  const TempFolder folder;
  const auto writer = TokenFileWriter::create(folder / "no/t", {257, kTokenizer});
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace tenax::data
