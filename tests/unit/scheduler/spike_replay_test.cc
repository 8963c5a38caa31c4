#include "scheduler/spike_replay.h"

#include <gtest/gtest.h>

#include <limits>

namespace tenax::scheduler {
namespace {

MetricPoint point(double loss, double grad_norm) {
  MetricPoint made;
  made.step = 12;
  made.loss = loss;
  made.grad_norm = grad_norm;
  return made;
}

TEST(SpikeReplay, EqualBitsAgreeAtNoTolerance) {
  EXPECT_FALSE(compare_replayed(point(2.5, 1), point(2.5, 1), 0).has_value());
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(compare_replayed(point(kNaN, kNaN), point(kNaN, kNaN), 0).has_value());
}

TEST(SpikeReplay, OneBitIsAMismatchAtNoTolerance) {
  const double loss = 2.5;
  const double next = 2.5 + std::numeric_limits<double>::epsilon() * 2;
  const auto mismatch = compare_replayed(point(loss, 1), point(next, 1), 0);
  ASSERT_TRUE(mismatch.has_value());
  EXPECT_EQ(mismatch->verdict, SpikeVerdict::kRestoreMismatch);
  EXPECT_EQ(mismatch->step, 12);
  EXPECT_FALSE(compare_replayed(point(loss, 1), point(next, 1), 1e-6).has_value());
}

TEST(SpikeReplay, AGradientNormAloneIsAMismatchToo) {
  const auto mismatch = compare_replayed(point(2.5, 1), point(2.5, 1.5), 0.1);
  ASSERT_TRUE(mismatch.has_value());
  EXPECT_NE(mismatch->reason.find("gradient norm"), std::string::npos) << mismatch->reason;
}

TEST(SpikeReplay, ANumberNeverAgreesWithNaN) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(compare_replayed(point(2.5, 1), point(kNaN, 1), 0.5).has_value());
}

}  // namespace
}  // namespace tenax::scheduler
