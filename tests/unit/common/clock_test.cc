#include "common/clock.h"

#include <gtest/gtest.h>

namespace tenax {
namespace {

TEST(FormatTime, IsRfc3339InUtc) {
  using std::chrono::sys_days;
  const Time t = sys_days{std::chrono::year{2026} / 11 / 23} + std::chrono::hours(14) +
                 std::chrono::minutes(2) + std::chrono::milliseconds(2125);
  EXPECT_EQ(format_time(t), "2026-11-23T14:02:02.125Z");
}

}  // namespace
}  // namespace tenax
