#include "configs/duration_text.h"

#include <gtest/gtest.h>

#include <random>

namespace tenax::configs {
namespace {

using namespace std::chrono_literals;

TEST(DurationText, ReadsEveryUnit) {
  EXPECT_EQ(parse_duration("7ns"), Duration(7));
  EXPECT_EQ(parse_duration("7us"), Duration(7us));
  EXPECT_EQ(parse_duration("250ms"), Duration(250ms));
  EXPECT_EQ(parse_duration("3s"), Duration(3s));
  EXPECT_EQ(parse_duration("10min"), Duration(10min));
  EXPECT_EQ(parse_duration("2h"), Duration(2h));
  EXPECT_EQ(parse_duration("1.5s"), Duration(1500ms));
  EXPECT_EQ(parse_duration("0s"), Duration(0));
}

TEST(DurationText, RefusesWhatIsNotADuration) {
  for (const char* text : {"", "3", "s", "3 s", " 3s", "3s ", "-3s", "1.2.3s", "3sec", "3m", ".",
                           "1e3s", "99999999999h", "nan", "3S", ".s"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
}

TEST(DurationText, WritesTheLargestWholeUnit) {
  EXPECT_EQ(format_duration(0s), "0s");
  EXPECT_EQ(format_duration(1500ms), "1500ms");
  EXPECT_EQ(format_duration(60s), "1min");
  EXPECT_EQ(format_duration(90min), "90min");
  EXPECT_EQ(format_duration(120min), "2h");
}

TEST(DurationText, RoundTrips) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 10000; ++i) {
    // Whole numbers of nanoseconds up to 2^53 survive the way through double.
    const Duration d(static_cast<std::int64_t>(random() >> (11 + random() % 50)));
    ASSERT_EQ(parse_duration(format_duration(d)), d) << d.count();
  }
}

}  // namespace
}  // namespace tenax::configs
