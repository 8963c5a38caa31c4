// The samples of a step, cut into microbatches for any number of replicas.
#include "actors/step_data.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "actors/engine_setup.h"
#include "data/sampler.h"
#include "data/token_file_writer.h"

namespace tenax::actors {
namespace {

constexpr int kSequence = 4;
constexpr std::int64_t kTokens = 4001;

class StepDataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("tenax_step_data." + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    config_.train.sequence_length = kSequence;
    config_.train.global_batch_size = 12;
    config_.train.microbatch_size = 2;
    config_.train.eval_samples = 5;
    write("train.tok", 0);
    write("heldout.tok", 5000);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  /// Token i is offset + i: a window tells its place by its first token.
  void write(const std::string& name, std::int32_t offset) {
    auto writer = data::TokenFileWriter::create(folder_ / name, {60000, {}});
    ASSERT_TRUE(writer);
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < kTokens; ++i) tokens.push_back(offset + i);
    ASSERT_TRUE(writer->append(tokens));
    ASSERT_TRUE(writer->finish());
  }
  std::unique_ptr<StepData> open() {
    auto data = StepData::open(config_, {{folder_ / "train.tok", folder_ / "heldout.tok"}});
    EXPECT_TRUE(data) << data.error().message;
    return *std::move(data);
  }
  /// First tokens of the samples of microbatches [first, end), in order.
  static std::vector<std::int32_t> firsts(std::span<const compute::Microbatch> batches) {
    std::vector<std::int32_t> out;
    for (const compute::Microbatch& b : batches) {
      for (std::size_t i = 0; i < b.tokens.size(); i += kSequence) out.push_back(b.tokens[i]);
    }
    return out;
  }

  configs::RunConfig config_;
  std::filesystem::path folder_;
};

TEST_F(StepDataTest, AllReplicasTogetherTrainThePositionsOfTheStepOnceInOrder) {
  const std::vector<SkipWindow> skips = {{15, 20}, {40, 41}};
  auto data = open();
  data->set_skip_windows(skips);
  const data::PositionMap map(12, skips);
  const std::int64_t windows = data::count_windows(kTokens, kSequence);
  for (std::int64_t step = 1; step <= 6; ++step) {
    std::vector<std::int32_t> expected;
    for (const std::int64_t p : map.positions(step)) {
      expected.push_back(static_cast<std::int32_t>(
          data::sample_window(static_cast<std::uint64_t>(config_.run.seed), p, windows) *
          kSequence));
    }
    EXPECT_EQ(data->position_begin(step), map.begin(step));
    EXPECT_EQ(data->position_end(step), map.end(step));
    for (int dp = 1; dp <= 4; ++dp) {
      std::vector<std::int32_t> trained;
      for (int r = 0; r < dp; ++r) {
        const auto o = engine_options(config_, 60000, {dp, 1, 1}, r);
        const auto range = o.ranges[static_cast<std::size_t>(r)];
        const auto mine = firsts(data->microbatches(step, range.begin, range.end));
        trained.insert(trained.end(), mine.begin(), mine.end());
      }
      EXPECT_EQ(trained, expected) << "step " << step << ", dp " << dp;
    }
  }
}

TEST_F(StepDataTest, TargetsAreTheNextTokens) {
  auto data = open();
  for (const compute::Microbatch& b : data->microbatches(3, 0, 6)) {
    for (std::size_t i = 0; i < b.tokens.size(); ++i) EXPECT_EQ(b.targets[i], b.tokens[i] + 1);
    EXPECT_FALSE(b.poison_nan);
  }
}

TEST_F(StepDataTest, PackingByDocumentsSaysWhereDocumentsBegin) {
  EXPECT_TRUE(open()->microbatches(1, 0, 6)[0].positions.empty());
  config_.data.packing = data::Packing::kDocuments;
  auto writer = data::TokenFileWriter::create(folder_ / "train.tok", {60000, {}});
  ASSERT_TRUE(writer);
  std::vector<std::int32_t> tokens;  // documents of 1, 2, 3, ... tokens and the one that ends them
  for (std::int32_t length = 1; length < 60; ++length) {
    tokens.insert(tokens.end(), static_cast<std::size_t>(length), length);
    tokens.push_back(9999);
  }
  ASSERT_TRUE(writer->append(tokens));
  ASSERT_TRUE(writer->finish());
  int num_starts = 0;
  auto data = open();
  for (const compute::Microbatch& b : data->microbatches(1, 0, 6)) {
    ASSERT_EQ(b.positions.size(), b.tokens.size());
    for (std::size_t i = 0; i < b.tokens.size(); ++i) {
      const bool starts = i % kSequence == 0 || b.tokens[i] == 9999;
      EXPECT_EQ(b.positions[i], starts ? 0 : b.positions[i - 1] + 1);
      num_starts += b.tokens[i] == 9999 ? 1 : 0;
    }
  }
  EXPECT_GT(num_starts, 0);
  for (const compute::Microbatch& b : data->heldout(0, 1))
    EXPECT_EQ(b.positions.size(), b.tokens.size());
}

TEST_F(StepDataTest, ABlendTakesEachCorpusInItsShareAndEachWindowInTurn) {
  config_.data.blend = {"3 a/*", "1 b/*"};
  config_.train.eval_samples = 1000;
  write("train-1.tok", 20000);
  write("heldout-1.tok", 30000);
  const auto data = StepData::open(config_, {{folder_ / "train.tok", folder_ / "heldout.tok"},
                                             {folder_ / "train-1.tok", folder_ / "heldout-1.tok"}});
  ASSERT_TRUE(data) << data.error().message;
  std::multiset<std::int32_t> first;
  std::multiset<std::int32_t> second;
  for (std::int64_t step = 1; step <= 250; ++step)  // 3000 samples: three cycles
    for (const std::int32_t token : firsts((*data)->microbatches(step, 0, 6)))
      (token < 20000 ? first : second).insert(token);
  EXPECT_EQ(first.size(), 2250u);
  EXPECT_EQ(second.size(), 750u);
  // 1000 windows a corpus: the first is trained twice and a quarter, the second not yet once.
  ASSERT_EQ(data::count_windows(kTokens, kSequence), 1000);
  for (std::int32_t w = 0; w < 1000; ++w) {
    EXPECT_GE(first.count(w * kSequence), 2u);
    EXPECT_LE(second.count(20000 + w * kSequence), 1u);
  }
  int heldout_of_second = 0;
  for (const std::int32_t token : firsts((*data)->heldout(0, (*data)->num_heldout_microbatches())))
    heldout_of_second += token >= 30000 ? 1 : 0;
  EXPECT_EQ(heldout_of_second, 250);
}

TEST_F(StepDataTest, PoisonSticksToTheSamplesAndASkipWindowEscapesIt) {
  config_.faults.poison_batch = 2;
  config_.faults.poison_num_batches = 1;
  config_.faults.poison_kind = data::PoisonKind::kNan;
  auto data = open();
  const auto poisoned = [&](std::int64_t step) {
    int n = 0;
    for (const compute::Microbatch& b : data->microbatches(step, 0, 6)) n += b.poison_nan ? 1 : 0;
    return n;
  };
  EXPECT_EQ(poisoned(1), 0);
  EXPECT_EQ(poisoned(2), 6);
  EXPECT_EQ(poisoned(3), 0);
  data->set_skip_windows({{6, 12}});  // step 1 now reaches into the poison
  EXPECT_EQ(poisoned(1), 3);
  EXPECT_EQ(poisoned(2), 3);
  data->set_skip_windows({{12, 24}});
  EXPECT_EQ(poisoned(2), 0);
}

TEST_F(StepDataTest, TokensOutsideTheVocabularyMakeTheLossNanAndNeverReachTheEngine) {
  {
    // Damaged after it was written: 0xffff is above the vocabulary of 60000.
    std::fstream file(folder_ / "train.tok", std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(80 + 2 * kTokens / 2);
    file.write("\xff\xff", 2);
  }
  auto data = open();
  int marked = 0;
  for (std::int64_t step = 1; step * 12 <= kTokens / kSequence; ++step) {
    for (const compute::Microbatch& b : data->microbatches(step, 0, 6)) {
      marked += b.poison_nan ? 1 : 0;
      for (const std::int32_t t : b.tokens) EXPECT_LT(t, 60000);
      for (const std::int32_t t : b.targets) EXPECT_LT(t, 60000);
    }
  }
  EXPECT_GE(marked, 1);
  EXPECT_LE(marked, 2) << "a token may be a sample's last target and the next one's first token";
}

TEST_F(StepDataTest, ASamplesTokensAreThoseThatAreTrained) {
  auto data = open();
  const auto batches = data->microbatches(2, 0, 6);
  const std::vector<std::int64_t> positions = data->positions(2);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::vector<std::int32_t> tokens = data->sample_tokens(positions[i]);
    ASSERT_EQ(tokens.size(), static_cast<std::size_t>(kSequence) + 1);
    EXPECT_EQ(tokens[0], batches[i / 2].tokens[(i % 2) * kSequence]);
    EXPECT_EQ(data->sample_begin(positions[i]), tokens[0]);
  }
}

TEST_F(StepDataTest, TheHeldOutSetIsFixedAndOfTheHeldOutText) {
  auto data = open();
  ASSERT_EQ(data->num_heldout_microbatches(), 3);
  const auto all = firsts(data->heldout(0, 3));
  auto parts = firsts(data->heldout(0, 1));
  const auto rest = firsts(data->heldout(1, 3));
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(parts, all);
  for (const std::int32_t t : all) EXPECT_GE(t, 5000);
}

TEST_F(StepDataTest, ATextShorterThanASequenceIsRefused) {
  config_.train.sequence_length = 8000;
  EXPECT_FALSE(StepData::open(config_, {{folder_ / "train.tok", folder_ / "heldout.tok"}}));
}

TEST_F(StepDataTest, EngineOptionsOfAllRanksFitTogether) {
  config_.model.num_layers = 5;
  for (int dp = 1; dp <= 3; ++dp) {
    for (int pp = 1; pp <= 3; ++pp) {
      const Degrees d{dp, 1, pp};
      for (int rank = 0; rank < d.world_size(); ++rank) {
        const auto o = engine_options(config_, 100, d, rank);
        EXPECT_EQ(o.world_size, d.world_size());
        EXPECT_EQ(o.dp_group[static_cast<std::size_t>(o.replica)], rank);
        EXPECT_EQ(o.pp_group[static_cast<std::size_t>(o.stage)], rank);
        EXPECT_EQ(o.replicas[static_cast<std::size_t>(o.replica)], o.pp_group);
        ASSERT_EQ(o.stages.size(), static_cast<std::size_t>(pp));
        EXPECT_EQ(o.stages.front().first_layer, 0);
        EXPECT_EQ(o.stages.back().end_layer, 5);
        EXPECT_TRUE(o.stages.front().has_embedding);
        EXPECT_TRUE(o.stages.back().has_head);
        EXPECT_EQ(o.ranges.back().end, 6);
      }
    }
  }
}

}  // namespace
}  // namespace tenax::actors
