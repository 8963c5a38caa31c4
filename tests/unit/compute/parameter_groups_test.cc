#include "compute/parameter_groups.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compute/adamw.h"

namespace tenax::compute {
namespace {

TEST(ParameterGroup, IsReadFromItsText) {
  const auto both =
      parse_parameter_group("layers.*.ffn.*: weight_decay=0.05, learning_rate_factor=2");
  ASSERT_TRUE(both) << both.error().message;
  EXPECT_EQ(*both, (ParameterGroup{"layers.*.ffn.*", 0.05, 2}));
  const auto one = parse_parameter_group("  *.bias :learning_rate_factor = 0 ");
  ASSERT_TRUE(one) << one.error().message;
  EXPECT_EQ(*one, (ParameterGroup{"*.bias", std::nullopt, 0}));
  for (const char* wrong :
       {"", "weights", ": weight_decay=0", "*:", "*: weight_decay", "*: weight_decay=x",
        "*: weight_decay=-1", "*: momentum=1", "*: weight_decay=0; learning_rate_factor=1"})
    EXPECT_FALSE(parse_parameter_group(wrong)) << wrong;
}

TEST(ParameterPattern, StarsStandForAnyCharacters) {
  EXPECT_TRUE(matches("*", "layers.0.ffn.up.weight"));
  EXPECT_TRUE(matches("layers.*.weight", "layers.0.ffn.up.weight"));
  EXPECT_TRUE(matches("*.up.*", "layers.0.ffn.up.weight"));
  EXPECT_TRUE(matches("layers.1*.bias", "layers.12.attention.query.bias"));
  EXPECT_TRUE(matches("final_norm.weight", "final_norm.weight"));
  EXPECT_FALSE(matches("layers.*.weight", "layers.0.ffn.up.bias"));
  EXPECT_FALSE(matches("embedding", "embedding.token.weight"));
  EXPECT_FALSE(matches("", "x"));
}

TEST(UpdateRule, IsThatOfTheFirstGroupThatFits) {
  ParameterSpec matrix{"layers.0.ffn.up.weight", {2, 2}, {}, true};
  ParameterSpec bias{"layers.0.ffn.up.bias", {2}, {}, false};
  EXPECT_EQ(update_rule(matrix, 0.1, {}), (UpdateRule{0.1, 1}));
  EXPECT_EQ(update_rule(bias, 0.1, {}), (UpdateRule{0, 1}));
  const std::vector<ParameterGroup> groups = {{"*.bias", 0.3, 1}, {"layers.*", std::nullopt, 0.5}};
  EXPECT_EQ(update_rule(matrix, 0.1, groups), (UpdateRule{0.1, 0.5}));
  EXPECT_EQ(update_rule(bias, 0.1, groups), (UpdateRule{0.3, 1}));
}

}  // namespace
}  // namespace tenax::compute
