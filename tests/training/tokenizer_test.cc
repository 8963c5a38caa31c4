// Training on tokens other than bytes, and `tenax tokenize`.
#include <gtest/gtest.h>

#include "data/bpe_tokenizer.h"
#include "data/token_file.h"
#include "tests/training/trained_run.h"
#include "tests/unit/data/shared_data.h"

namespace tenax::testing {
namespace {

const std::vector<std::string> kBpe = {"data.tokenizer=bpe", "data.vocabulary_size=400",
                                       "train.eval_interval=20", "checkpoint.interval=10"};

std::vector<std::string> with(std::vector<std::string> settings, const std::string& more) {
  settings.push_back(more);
  return settings;
}

TEST(BpeRun, TrainsOnTheSpotAndResumesWithTheSameTokens) {
  const TrainingFolder folder;
  folder.train("straight", with(kBpe, "train.steps=40"));
  ASSERT_FALSE(::testing::Test::HasFatalFailure());
  const auto metrics = folder.metrics("straight");
  EXPECT_LT(metrics.back()["eval_loss"], metrics.front()["loss"]);
  const auto tokenizer = data::BpeTokenizer::open(folder.path() / "straight/data/tokenizer.json");
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->vocabulary_size(), 400);

  // The documents are gone when the run goes on: everything it needs is in its directory.
  folder.train("parts", with(with(kBpe, "optimizer.decay_steps=40"), "train.steps=20"));
  std::filesystem::remove_all(folder.path() / "docs");
  const CommandResult resumed =
      folder.tenax({"train", "--resume", "--run-dir", "parts", "--set", "train.steps=40"});
  EXPECT_EQ(resumed.ended, Ended({0, 0})) << resumed.output;
  EXPECT_EQ(folder.hash("parts"), folder.hash("straight"));
  const CommandResult text = folder.tenax({"generate", "parts", "--tokens", "5"});
  EXPECT_EQ(text.ended, Ended({0, 0})) << text.output;
}

TEST(BpeRun, ATokenizerThatIsNotTheRunsIsRefused) {
  const TrainingFolder folder;
  folder.train("a", with(kBpe, "train.steps=12"));
  folder.train("b", with(with(kBpe, "data.vocabulary_size=300"), "train.steps=12"));
  std::filesystem::copy(folder.path() / "b/data/tokenizer.json",
                        folder.path() / "a/data/tokenizer.json",
                        std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(folder.tenax({"eval", "a"}).ended, Ended({3, 0}));
}

TEST(Gpt2Run, TrainsWithACopyOfTheTokenizer) {
  const std::filesystem::path gpt2 = data::shared_data("tokenizers/gpt2");
  TENAX_SKIP_WITHOUT(gpt2);
  const TrainingFolder folder;
  folder.train("run", {"data.tokenizer=gpt2", "data.gpt2_dir=" + gpt2.string(), "train.steps=12",
                       "model.width=16", "model.head_dim=4", "train.eval_samples=4"});
  ASSERT_FALSE(::testing::Test::HasFatalFailure());
  // ln(50257) = 10.82 at the beginning.
  EXPECT_NEAR(folder.metrics("run").front()["loss"], 10.82, 0.3);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "run/data/gpt2/vocab.bpe"));
  const CommandResult text = folder.tenax({"generate", "run", "--tokens", "2"});
  EXPECT_EQ(text.ended, Ended({0, 0})) << text.output;
}

TEST(Tokenize, WritesTheSameDigestsForTheSameDocuments) {
  const TrainingFolder folder;
  const std::vector<std::string> arguments = {"tokenize",     "docs/*.md", "--tokenizer", "bpe",
                                              "--vocabulary", "500",       "--json",      "--out"};
  const auto one = folder.json_lines(with(arguments, "one"));
  const auto two = folder.json_lines(with(arguments, "two"));
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one, two);
  EXPECT_EQ(one[0]["vocabulary_size"], 500);
  const auto file = data::TokenFile::open(folder.path() / "one/train.tok",
                                          {data::TokenFile::Verify::kContent, {}, {}});
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->num_tokens(), one[0]["train"]["tokens"]);
  EXPECT_EQ(file->info().content_hash.hex(), one[0]["train"]["digest"]);
  // Merges shorten text: far fewer tokens than bytes.
  const std::int64_t tokens = one[0]["train"]["tokens"].get<std::int64_t>() +
                              one[0]["heldout"]["tokens"].get<std::int64_t>();
  EXPECT_LT(tokens, one[0]["bytes"].get<std::int64_t>() * 3 / 4);
}

TEST(Tokenize, BytesAreCountedExactly) {
  const TrainingFolder folder;
  const auto lines =
      folder.json_lines({"tokenize", "README.md", "--heldout", "0", "--out", "out", "--json"});
  ASSERT_EQ(lines.size(), 1u);
  const auto size = std::filesystem::file_size(folder.path() / "README.md");
  EXPECT_EQ(lines[0]["train"]["tokens"], size + 1);
  EXPECT_EQ(lines[0]["heldout"]["tokens"], 0);
  EXPECT_EQ(folder.tenax({"tokenize", "gone/*", "--out", "out"}).ended, Ended({3, 0}));
}

}  // namespace
}  // namespace tenax::testing
