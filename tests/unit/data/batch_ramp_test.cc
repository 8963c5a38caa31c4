#include "data/batch_ramp.h"

#include <gtest/gtest.h>

namespace tenax::data {
namespace {

TEST(BatchRamp, SaysFromWhichStepOnABatchHasWhichSize) {
  const auto ramp = batch_ramp({"50 x 4", " 10x8 "}, 16);
  ASSERT_TRUE(ramp) << ramp.error().message;
  EXPECT_EQ(*ramp, (std::vector<BatchSizeChange>{{1, 4}, {51, 8}, {61, 16}}));
  EXPECT_EQ(*batch_ramp({}, 16), (std::vector<BatchSizeChange>{{1, 16}}));
}

TEST(BatchRamp, PositionsFollowWithoutAGap) {
  const PositionMap map(*batch_ramp({"2 x 4", "1 x 8"}, 16), {});
  EXPECT_EQ(map.begin(1), 0);
  EXPECT_EQ(map.begin(3), 8);
  EXPECT_EQ(map.begin(4), 16);
  EXPECT_EQ(map.end(4), 32);
}

TEST(BatchRamp, RefusesWhatIsNone) {
  for (const char* wrong : {"", "50", "x 4", "50 x", "0 x 4", "50 x 0", "50 x 4 x 2", "-1 x 4",
                            "50 y 4", "99999999999999999999 x 4"})
    EXPECT_FALSE(batch_ramp({wrong}, 16)) << wrong;
}

}  // namespace
}  // namespace tenax::data
