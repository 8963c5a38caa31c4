// Every tiny card trains on real text to the loss that it states, whole, as two stages and shared
// by two tensor-parallel ranks.
#include <gtest/gtest.h>

#include "configs/model_card.h"
#include "tests/training/trained_run.h"

namespace tenax::testing {
namespace {

std::vector<std::string> tiny_cards() {
  std::vector<std::string> names;
  for (const std::string& name : configs::model_card_names()) {
    if (name.ends_with("-tiny")) names.push_back(name);
  }
  return names;
}

class TinyCard : public ::testing::TestWithParam<std::string> {};

TEST_P(TinyCard, TrainsToItsLossWholeWithEqualWeightsInTwoStagesAndShared) {
  const auto card = configs::load_model_card(GetParam());
  ASSERT_TRUE(card) << card.error().message;
  const TrainingFolder folder;
  const std::string setting = "model.card=" + GetParam();
  folder.train("whole", {setting});
  folder.train("stages", {setting, "layout.pipeline_parallel=2"});
  folder.train("shared", {setting, "layout.tensor_parallel=2"});
  ASSERT_FALSE(HasFatalFailure());

  const auto metrics = folder.metrics("whole");
  ASSERT_EQ(metrics.size(), 300u);
  const double last = metrics.back()["eval_loss"];
  EXPECT_LE(last, card->tiny_loss);
  EXPECT_GT(metrics.front()["loss"], last + 1.5);
  EXPECT_EQ(folder.metrics("stages").back()["eval_loss"], last);
  EXPECT_EQ(folder.hash("stages"), folder.hash("whole"));
  EXPECT_LE(folder.metrics("shared").back()["eval_loss"], card->tiny_loss);
}

std::string test_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, TinyCard, ::testing::ValuesIn(tiny_cards()), test_name);

}  // namespace
}  // namespace tenax::testing
