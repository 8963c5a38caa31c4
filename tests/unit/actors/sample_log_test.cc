#include "actors/sample_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

namespace tenax::actors {
namespace {

class SampleLogTest : public ::testing::Test {
 protected:
  SampleLogTest() {
    folder_ =
        std::filesystem::temp_directory_path() / ("tenax-sample-log-" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
  }
  ~SampleLogTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path ring(int rank = 0) const {
    return folder_ / "samples" / ("rank" + std::to_string(rank) + ".ring");
  }
  std::filesystem::path folder_;
};

SampleLoss sample(std::int64_t step, std::int64_t position, double loss = 1, std::uint64_t b = 0) {
  return {b, step, position, loss};
}

TEST_F(SampleLogTest, HoldsTheNewestEntriesOldestFirst) {
  auto log = SampleLog::open(ring(), 8);
  ASSERT_TRUE(log) << log.error().message;
  for (int i = 0; i < 5; ++i) (*log)->add(sample(i, 10 * i));
  auto read = read_sample_log(ring());
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), 5u);
  EXPECT_EQ(read->front(), sample(0, 0));
  for (int i = 5; i < 20; ++i) (*log)->add(sample(i, 10 * i));
  read = read_sample_log(ring());
  ASSERT_TRUE(read);
  ASSERT_EQ(read->size(), 8u);
  for (int i = 0; i < 8; ++i) EXPECT_EQ((*read)[i], sample(12 + i, 10 * (12 + i)));
}

TEST_F(SampleLogTest, ANewProcessGoesOnWhereTheLastOneWas) {
  for (int i = 0; i < 6; ++i) {
    auto log = SampleLog::open(ring(), 4);
    ASSERT_TRUE(log);
    (*log)->add(sample(i, i));
  }
  const auto read = read_sample_log(ring());
  ASSERT_TRUE(read);
  ASSERT_EQ(read->size(), 4u);
  EXPECT_EQ(read->front(), sample(2, 2));
  EXPECT_EQ(read->back(), sample(5, 5));
}

TEST_F(SampleLogTest, ADamagedRingIsAnErrorToReadersAndReplacedByTheWriter) {
  std::filesystem::create_directories(ring().parent_path());
  std::ofstream(ring()) << "not a ring";
  EXPECT_FALSE(read_sample_log(ring()));
  auto log = SampleLog::open(ring(), 4);
  ASSERT_TRUE(log);
  (*log)->add(sample(1, 1));
  EXPECT_EQ(read_sample_log(ring())->size(), 1u);
}

TEST_F(SampleLogTest, KeepsTheStepsAskedForFromAllRanksOnce) {
  for (int rank = 0; rank < 2; ++rank) {
    auto log = SampleLog::open(ring(rank), 64);
    ASSERT_TRUE(log);
    for (int step = 1; step <= 6; ++step) (*log)->add(sample(step, 2 * step + rank, 0.5 * step));
    (*log)->add(sample(4, 8 + rank, rank == 0 ? std::nan("") : 9));  // replayed: counts
    (*log)->add(sample(5, 99, 1, 7));                                // of another branch
  }
  const auto out = folder_ / "spikes" / "kept.json";
  ASSERT_TRUE(keep_samples(folder_ / "samples", 0, 4, 5, out));
  const auto kept = read_kept_samples(out);
  ASSERT_TRUE(kept) << kept.error().message;
  ASSERT_EQ(kept->size(), 4u);
  EXPECT_EQ((*kept)[0].position, 8);
  EXPECT_TRUE(std::isnan((*kept)[0].loss));
  EXPECT_EQ((*kept)[1], sample(4, 9, 9));
  EXPECT_EQ((*kept)[2], sample(5, 10, 2.5));
  EXPECT_EQ((*kept)[3], sample(5, 11, 2.5));
}

}  // namespace
}  // namespace tenax::actors
