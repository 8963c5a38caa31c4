#include "configs/nearest.h"

#include <gtest/gtest.h>

#include <vector>

namespace tenax::configs {
namespace {

TEST(EditDistance, CountsEveryKindOfSlip) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("steps", "step"), 1u);
  EXPECT_EQ(edit_distance("step", "stepz"), 1u);
  EXPECT_EQ(edit_distance("heads", "beads"), 1u);
  EXPECT_EQ(edit_distance("modle", "model"), 1u);  // one swap
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("intention", "execution"), 5u);
}

const std::vector<std::string> kKeys{"checkpoint.interval", "model.heads", "model.width",
                                     "train.eval_interval", "train.steps"};

TEST(NearestKey, FindsSlipsInAnyPart) {
  EXPECT_EQ(nearest_key("train.step", kKeys), "train.steps");
  EXPECT_EQ(nearest_key("trian.steps", kKeys), "train.steps");
  EXPECT_EQ(nearest_key("model.haeds", kKeys), "model.heads");
}

TEST(NearestKey, FindsAKeyInTheWrongSectionOrWithoutOne) {
  EXPECT_EQ(nearest_key("steps", kKeys), "train.steps");
  EXPECT_EQ(nearest_key("optimizer.steps", kKeys), "train.steps");
  EXPECT_EQ(nearest_key("training.width", kKeys), "model.width");
}

TEST(NearestKey, SaysNothingWhenNothingIsNear) {
  EXPECT_EQ(nearest_key("train.dropout", kKeys), std::nullopt);
  EXPECT_EQ(nearest_key("x", kKeys), std::nullopt);
}

TEST(NearestWord, TakesTheFirstOfEquallyNearOnes) {
  const std::vector<std::string> words{"aab", "aac"};
  EXPECT_EQ(nearest_word("aad", words), "aab");
  EXPECT_EQ(nearest_word("zzz", words), std::nullopt);
}

}  // namespace
}  // namespace tenax::configs
