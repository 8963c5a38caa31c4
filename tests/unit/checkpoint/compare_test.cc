#include "checkpoint/compare.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/box.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

const TensorComparison& of(const std::vector<TensorComparison>& all, const std::string& kind,
                           const std::string& name) {
  for (const TensorComparison& c : all) {
    if (c.kind == kind && c.name == name) return c;
  }
  static const TensorComparison none;
  ADD_FAILURE() << kind << " " << name << " is not listed";
  return none;
}

TEST(CompareTensors, LayoutAndSpecialValuesMakeNoDifference) {
  const TempDir dir;
  auto store = Store::open(dir.path(), store_options());
  ASSERT_OK(store);
  const Model model = random_model(5);
  SaveOptions other;
  other.seed = 77;
  other.num_writers = 1;
  const auto a = save(**store, 1, model);
  const auto b = save(**store, 2, model, other);
  ASSERT_OK(a);
  ASSERT_OK(b);
  const auto all = compare_tensors({**store, *a}, {**store, *b});
  ASSERT_OK(all);
  ASSERT_EQ(all->size(), model.size());
  for (const TensorComparison& c : *all) {
    EXPECT_EQ(c.verdict, TensorVerdict::kEqual) << c.kind << " " << c.name;
    EXPECT_EQ(c.num_different, 0);
  }
}

TEST(CompareTensors, EveryKindOfDifferenceIsNamed) {
  const TempDir dir;
  auto store = Store::open(dir.path(), store_options());
  ASSERT_OK(store);
  const Model before = random_model(5);
  Model after = before;
  const auto tensor = [&](const std::string& kind, const std::string& name) -> LogicalTensor& {
    return *std::find_if(after.begin(), after.end(),
                         [&](const LogicalTensor& t) { return t.kind == kind && t.name == name; });
  };
  LogicalTensor& wte = tensor(kParameter, "wte.weight");
  wte.values[100] = before[0].values[100] + 0.5f;
  wte.values[3000] = before[0].values[3000] - 0.25f;
  tensor(kParameter, "h.0.ln.bias").values[7] = INFINITY;
  tensor(kAdamM, "h.0.ln.bias").values[0] = 0.0f;  // was -0
  LogicalTensor& scale = tensor(kAdamV, "scale");
  scale.shape = {1};
  tensor(kAdamV, "wte.weight").name = "renamed";
  const auto a = save(**store, 1, before);
  const auto b = save(**store, 2, after);
  ASSERT_OK(a);
  ASSERT_OK(b);
  const auto all = compare_tensors({**store, *a}, {**store, *b});
  ASSERT_OK(all);
  const auto& changed = of(*all, kParameter, "wte.weight");
  EXPECT_EQ(changed.verdict, TensorVerdict::kDifferent);
  EXPECT_EQ(changed.num_different, 2);
  EXPECT_NEAR(changed.max_difference, 0.5, 1e-6);
  EXPECT_TRUE(std::isinf(of(*all, kParameter, "h.0.ln.bias").max_difference));
  EXPECT_EQ(of(*all, kAdamM, "h.0.ln.bias").num_different, 1);
  EXPECT_EQ(of(*all, kAdamM, "h.0.ln.bias").max_difference, 0);
  EXPECT_EQ(of(*all, kAdamV, "scale").verdict, TensorVerdict::kOtherShape);
  EXPECT_EQ(of(*all, kAdamV, "wte.weight").verdict, TensorVerdict::kOnlyInFirst);
  EXPECT_EQ(of(*all, kAdamV, "renamed").verdict, TensorVerdict::kOnlyInSecond);
  EXPECT_EQ(of(*all, kParameter, "h.1.mlp.weight").verdict, TensorVerdict::kEqual);
}

}  // namespace
}  // namespace tenax::checkpoint
