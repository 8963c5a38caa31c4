// Properties of the detector that hold for any series: saving and restoring is invisible, nothing
// non-finite enters the state, and decisions depend on the series alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/counter_rng.h"
#include "scheduler/spike_detector.h"
#include "tests/unit/scheduler/spike_series.h"

namespace tenax::scheduler {
namespace {

/// A series with spikes, plateaus, drops, holes and non-finite numbers in random places.
std::vector<MetricPoint> wild_series(std::uint64_t seed, std::int64_t num_steps) {
  constexpr double kBad[] = {std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::max(),
                             std::numeric_limits<double>::lowest(),
                             std::numeric_limits<double>::denorm_min(),
                             0.0,
                             -3.0};
  const CounterRng rng(seed, 9);
  std::vector<MetricPoint> points;
  double offset = 0;
  for (std::int64_t step = 1; step <= num_steps; ++step) {
    const std::uint64_t bits = rng.bits(static_cast<std::uint64_t>(step));
    if (bits % 97 == 0) offset = static_cast<double>(bits / 97 % 5) - 1;
    if (bits % 41 == 0) offset = 0;
    if (bits % 89 == 1) continue;
    MetricPoint point = healthy_point(step, seed);
    point.loss += offset;
    if (bits % 29 == 2) point.loss = kBad[bits / 29 % 8];
    if (bits % 31 == 3) point.grad_norm = kBad[bits / 31 % 8];
    if (bits % 37 == 4) point.grad_norm.reset();
    if (bits % 43 == 5) point.missing = true;
    points.push_back(point);
  }
  return points;
}

bool all_finite(const std::vector<double>& values) {
  for (const double value : values)
    if (!std::isfinite(value)) return false;
  return true;
}

bool all_finite(const SpikeDetectorState& state) {
  const SpikeBaselineState& base = state.baseline;
  return all_finite(base.losses) && all_finite(base.grad_norms) && all_finite(state.recent) &&
         all_finite(state.first_losses) && all_finite(state.block) &&
         all_finite(state.block_levels) &&
         all_finite({base.level, base.sigma, base.slope, base.grad_norm_level, state.peak});
}

/// Equal, NaN counting as equal to NaN.
bool same(const SpikeEvent& a, const SpikeEvent& b) {
  const bool same_loss = a.loss == b.loss || (std::isnan(a.loss) && std::isnan(b.loss));
  return a.step == b.step && a.onset == b.onset && a.verdict == b.verdict && same_loss &&
         a.baseline == b.baseline && a.score == b.score && a.action == b.action &&
         a.reason == b.reason;
}

void expect_same(const std::vector<SpikeEvent>& a, const std::vector<SpikeEvent>& b,
                 std::uint64_t seed) {
  ASSERT_EQ(a.size(), b.size()) << "seed " << seed;
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(same(a[i], b[i])) << "seed " << seed << ": " << a[i].reason << " / " << b[i].reason;
}

TEST(SpikeProperty, SavingAndRestoringAnywhereChangesNothing) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const std::vector<MetricPoint> points = wild_series(seed, 900);
    SpikeDetector whole({});
    SpikeDetector torn({});
    std::vector<SpikeEvent> expected;
    std::vector<SpikeEvent> got;
    for (const MetricPoint& point : points) {
      for (SpikeEvent& event : whole.observe(point)) expected.push_back(std::move(event));
      torn = SpikeDetector::restore({}, torn.save());
      for (SpikeEvent& event : torn.observe(point)) got.push_back(std::move(event));
    }
    EXPECT_EQ(whole.save(), torn.save()) << "seed " << seed;
    expect_same(expected, got, seed);
  }
}

TEST(SpikeProperty, NothingNonFiniteEntersTheState) {
  std::size_t num_events = 0;
  for (std::uint64_t seed = 100; seed < 160; ++seed) {
    SpikeOptions options;
    options.fp16_loss_scaling = seed % 2 == 0;
    options.window = seed % 3 == 0 ? 8 : 64;
    SpikeDetector detector(options);
    for (const MetricPoint& point : wild_series(seed, 900)) {
      num_events += detector.observe(point).size();
      ASSERT_TRUE(all_finite(detector.save())) << "seed " << seed << ", step " << point.step;
    }
  }
  EXPECT_GT(num_events, 1000U);
}

TEST(SpikeProperty, ASeriesOfNothingButNonFiniteNumbersIsSurvived) {
  SpikeDetector detector({});
  std::size_t num_events = 0;
  for (std::int64_t step = 1; step <= 500; ++step) {
    MetricPoint point;
    point.step = step;
    point.loss = std::numeric_limits<double>::quiet_NaN();
    point.grad_norm = std::numeric_limits<double>::infinity();
    num_events += detector.observe(point).size();
  }
  EXPECT_EQ(num_events, 3U);
  EXPECT_TRUE(all_finite(detector.save()));
  EXPECT_FALSE(detector.sound());
}

TEST(SpikeProperty, ABadSampleLeavesTheBaselineAsItWas) {
  for (std::int64_t at = 70; at < 140; ++at) {
    SpikeDetector detector({});
    observe_all(detector, series(at));
    const SpikeBaselineState before = detector.save().baseline;
    MetricPoint bad = healthy_point(at + 1);
    bad.loss = std::numeric_limits<double>::quiet_NaN();
    detector.observe(bad);
    EXPECT_EQ(detector.save().baseline, before);
    bad.step = at + 2;
    bad.loss = 100;
    detector.observe(bad);
    EXPECT_EQ(detector.save().baseline, before);
  }
}

TEST(SpikeProperty, RewindingToAnEarlierStateRepeatsTheSameEvents) {
  for (std::uint64_t seed = 200; seed < 220; ++seed) {
    const std::vector<MetricPoint> points = wild_series(seed, 900);
    SpikeDetector detector({});
    SpikeDetectorState saved;
    std::vector<SpikeEvent> first;
    for (std::size_t i = 0; i < points.size(); ++i) {
      if (i == points.size() / 2) saved = detector.save();
      for (SpikeEvent& event : detector.observe(points[i]))
        if (i >= points.size() / 2) first.push_back(std::move(event));
    }
    SpikeDetector rewound = SpikeDetector::restore({}, saved);
    const auto half = points.begin() + static_cast<std::ptrdiff_t>(points.size() / 2);
    expect_same(first, observe_all(rewound, {half, points.end()}), seed);
  }
}

}  // namespace
}  // namespace tenax::scheduler
