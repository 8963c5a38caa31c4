#include "tools/curve_reader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string_view>
#include <vector>

namespace tenax::tools {
namespace {

using scheduler::MetricPoint;

std::vector<MetricPoint> parsed(std::string_view text, const CurveColumns& columns = {}) {
  auto points = parse_curve(text, columns);
  EXPECT_TRUE(points.has_value()) << (points ? "" : points.error().message);
  return points ? *points : std::vector<MetricPoint>{};
}

TEST(CurveReader, ReadsPlainCsvWithAndWithoutAHeader) {
  for (const std::string_view text : {"step,loss,grad_norm\n1,2.5,0.5\n2,2.25,0.25\n",
                                      "1,2.5,0.5\n2,2.25,0.25\n", "1,2.5,0.5\r\n2,2.25,0.25"}) {
    const auto points = parsed(text);
    ASSERT_EQ(points.size(), 2U);
    EXPECT_EQ(points[1].step, 2);
    EXPECT_EQ(points[1].loss, 2.25);
    EXPECT_EQ(points[1].grad_norm, 0.25);
  }
}

TEST(CurveReader, ReadsATensorBoardExport) {
  const auto points = parsed("Wall time,Step,Value\n1699999999.1,10,3.5\n1700000000.2,20,3.25\n");
  ASSERT_EQ(points.size(), 2U);
  EXPECT_EQ(points[0].step, 10);
  EXPECT_EQ(points[0].loss, 3.5);
  EXPECT_FALSE(points[0].grad_norm.has_value());
}

TEST(CurveReader, ReadsAWeightsAndBiasesExport) {
  const auto points = parsed(
      "\"Step\",\"big-run - train/loss\",\"big-run - train/loss__MIN\",\"big-run - "
      "train/grad_norm\"\n\"10\",\"3.5\",\"3.5\",\"0.5\"\n");
  ASSERT_EQ(points.size(), 1U);
  EXPECT_EQ(points[0].loss, 3.5);
  EXPECT_EQ(points[0].grad_norm, 0.5);
}

TEST(CurveReader, ReadsJsonLinesAndLeavesOtherRecordsOut) {
  const auto points = parsed(
      "{\"_step\": 1, \"train/loss\": 2.5, \"train/grad_norm\": 0.5}\n"
      "{\"_step\": 1, \"eval/loss\": 2.7}\n"
      "{\"_step\": 2, \"train/loss\": NaN, \"note\": \"NaN and Infinity\"}\n"
      "{\"_step\": 3, \"train/loss\": \"Infinity\"}\n"
      "{\"_step\": 4, \"train/loss\": -Infinity}\n"
      "{\"_step\": 5, \"train/loss\": null}\n");
  ASSERT_EQ(points.size(), 5U);
  EXPECT_EQ(points[0].grad_norm, 0.5);
  EXPECT_TRUE(std::isnan(points[1].loss));
  EXPECT_EQ(points[2].loss, INFINITY);
  EXPECT_EQ(points[3].loss, -INFINITY);
  EXPECT_TRUE(points[4].missing);
}

TEST(CurveReader, KnowsTheSpellingsOfWhatIsNotANumber) {
  const auto points = parsed(
      "step,loss\n1,nan\n2,NaN\n3,inf\n4,-Infinity\n5,\n6,null\n7,1e400\n8,-1e400\n9,1e-400\n10");
  ASSERT_EQ(points.size(), 10U);
  EXPECT_TRUE(std::isnan(points[0].loss) && std::isnan(points[1].loss));
  EXPECT_EQ(points[2].loss, INFINITY);
  EXPECT_EQ(points[3].loss, -INFINITY);
  EXPECT_TRUE(points[4].missing && points[5].missing && points[9].missing);
  EXPECT_EQ(points[6].loss, INFINITY);
  EXPECT_EQ(points[7].loss, -INFINITY);
  EXPECT_EQ(points[8].loss, 0);
}

TEST(CurveReader, UsesTheColumnsThatAreAskedFor) {
  const auto points =
      parsed("tokens,step,loss,z_loss,gn\n100,1,2.5,0.1,9\n", {"tokens", "z_loss", "gn"});
  ASSERT_EQ(points.size(), 1U);
  EXPECT_EQ(points[0].step, 100);
  EXPECT_EQ(points[0].loss, 0.1);
  EXPECT_EQ(points[0].grad_norm, 9);
}

TEST(CurveReader, ErrorsNameTheLine) {
  const auto message = [](std::string_view text) {
    const auto points = parse_curve(text, {});
    EXPECT_FALSE(points.has_value());
    return points ? std::string() : points.error().message;
  };
  EXPECT_NE(message("step,loss\n1,2\n2,two\n").find("line 3"), std::string::npos);
  EXPECT_NE(message("step,loss\nx,2\n").find("line 2"), std::string::npos);
  EXPECT_NE(message("epoch,accuracy\n1,2\n").find("accuracy"), std::string::npos);
  EXPECT_NE(message("{\"step\": 1, \"loss\": 2}\n{broken\n").find("line 2"), std::string::npos);
  EXPECT_NE(message("{\"step\": 1, \"loss\": [2]}\n").find("line 1"), std::string::npos);
  EXPECT_FALSE(message("").empty());
  EXPECT_FALSE(message("step,loss\n").empty());
}

TEST(CurveReader, AMissingFileIsNotFoundAndNamed) {
  const auto points = read_curve("/nonexistent/curve.csv", {});
  ASSERT_FALSE(points.has_value());
  EXPECT_EQ(points.error().code, ErrorCode::kNotFound);
  EXPECT_NE(points.error().message.find("/nonexistent/curve.csv"), std::string::npos);
}

}  // namespace
}  // namespace tenax::tools
