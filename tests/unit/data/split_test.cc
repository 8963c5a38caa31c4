#include "data/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace tenax::data {
namespace {

using Lengths = std::vector<std::int64_t>;

std::int64_t sum(const Lengths& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
}

TEST(Split, HoldsOutAboutTheFraction) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Lengths lengths(1 + random() % 60);
    // From documents of one size to a few huge ones.
    for (auto& n : lengths) n = std::int64_t{1} << (random() % (2 + seed % 16));
    const double fraction = 0.01 + 0.01 * static_cast<double>(random() % 40);
    const Lengths trained = split_documents(lengths, {fraction, seed});
    ASSERT_EQ(trained.size(), lengths.size());
    int num_cut = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      ASSERT_GE(trained[i], 0);
      ASSERT_LE(trained[i], lengths[i]);
      num_cut += trained[i] != 0 && trained[i] != lengths[i];
    }
    ASSERT_LE(num_cut, 1);
    const double target = fraction * static_cast<double>(sum(lengths));
    const auto heldout = static_cast<double>(sum(lengths) - sum(trained));
    ASSERT_GE(heldout, 0.9 * target - 1);
    ASSERT_LE(heldout, 1.1 * target + 1);
  }
}

TEST(Split, ASingleDocumentLosesItsTail) {
  EXPECT_EQ(split_documents(Lengths{1000}, {0.05, 3}), Lengths{950});
}

TEST(Split, DocumentsTooLargeForTheFractionLoseATail) {
  EXPECT_EQ(split_documents(Lengths{500, 1500}, {0.05, 3}), (Lengths{500, 1400}));
}

TEST(Split, WholeDocumentsAreHeldOutWhenTheyFit) {
  const Lengths lengths(100, 10);
  const Lengths trained = split_documents(lengths, {0.1, 3});
  EXPECT_EQ(std::count(trained.begin(), trained.end(), 0), 10);
  EXPECT_EQ(std::count(trained.begin(), trained.end(), 10), 90);
}

TEST(Split, IsAFunctionOfTheSeed) {
  const Lengths lengths(100, 10);
  EXPECT_EQ(split_documents(lengths, {0.1, 3}), split_documents(lengths, {0.1, 3}));
  EXPECT_NE(split_documents(lengths, {0.1, 3}), split_documents(lengths, {0.1, 4}));
}

TEST(Split, NothingIsHeldOutOfNothingOrForNothing) {
  EXPECT_EQ(split_documents({}, {0.5, 1}), Lengths{});
  EXPECT_EQ(split_documents(Lengths{7, 8}, {0.0, 1}), (Lengths{7, 8}));
}

}  // namespace
}  // namespace tenax::data
