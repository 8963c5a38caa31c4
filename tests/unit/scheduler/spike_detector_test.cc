#include "scheduler/spike_detector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/unit/scheduler/spike_series.h"

namespace tenax::scheduler {
namespace {

using enum SpikeVerdict;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(SpikeDetector, SaysNothingAboutAHealthyRun) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<SpikeEvent> events = events_of(series(3000, {}, seed));
    EXPECT_TRUE(events.empty()) << "seed " << seed << ": " << events.front().reason;
  }
}

TEST(SpikeDetector, TakesOneBadBatchForAnOutlier) {
  const auto events = events_of(series(600, raised(500, 500, 1)));
  ASSERT_EQ(verdicts(events), (std::vector{kArmed, kOutlier}));
  EXPECT_EQ(events[0].step, 500);
  EXPECT_EQ(events[1].onset, 500);
  EXPECT_LE(events[1].step, 503);
  EXPECT_EQ(events[1].action, SpikeAction::kNone);
}

TEST(SpikeDetector, LetsASpikeHealThatIsShorterThanItsPatience) {
  const auto events = events_of(series(600, raised(500, 512, 1)));
  ASSERT_EQ(verdicts(events), (std::vector{kArmed, kSpike, kRecovered}));
  EXPECT_EQ(events[1].step, 501);
  EXPECT_EQ(events[1].onset, 500);
  EXPECT_NEAR(events[1].baseline, 2 + 2 * std::exp(-1.0), 0.03);
  EXPECT_GT(events[1].score, 6);
  EXPECT_LE(events[2].step, 517);
}

TEST(SpikeDetector, ThreeHighLossesConfirmWhereNoneIsSuspiciousAlone) {
  // The noise is 0.02, so 0.1 is 5 sigmas: under the 6 that arm.
  const auto events = events_of(series(2060, raised(2000, 2009, 0.1)), [] {
    SpikeOptions options;
    options.min_rise = 0.01;
    options.min_relative_rise = 0.01;
    return options;
  }());
  ASSERT_FALSE(events.empty());
  EXPECT_LE(events[0].step, 2003);
  EXPECT_EQ(std::count_if(events.begin(), events.end(),
                          [](const SpikeEvent& event) { return event.verdict == kSpike; }),
            1);
  EXPECT_EQ(events.back().verdict, kRecovered);
}

TEST(SpikeDetector, RollsBackASpikeThatStays) {
  const auto events = events_of(series(560, raised(500, 560, 1)));
  ASSERT_EQ(verdicts(events), (std::vector{kArmed, kSpike, kRollback}));
  EXPECT_EQ(events[2].step, 519);
  EXPECT_EQ(events[2].onset, 500);
  EXPECT_EQ(events[2].action, SpikeAction::kRollBack);
}

TEST(SpikeDetector, DoesNotRollBackInTheSampleThatHeals) {
  const auto events = events_of(series(600, raised(500, 518, 1)));
  ASSERT_EQ(verdicts(events), (std::vector{kArmed, kSpike, kRecovered}));
}

TEST(SpikeDetector, AsksOnceAndAdoptsThePlateauIfNobodyActs) {
  const auto events = events_of(series(1500, raised(500, 1500, 1)));
  ASSERT_EQ(verdicts(events), (std::vector{kArmed, kSpike, kRollback, kLevelShift}));
  EXPECT_EQ(events[3].action, SpikeAction::kNone);
  EXPECT_NEAR(events[3].baseline, healthy_point(580).loss + 1, 0.1);
}

TEST(SpikeDetector, DoesNotWaitWhenTheLossIsThatOfAnUntrainedModel) {
  const auto lost = [](MetricPoint& point) {
    if (point.step <= 10) point.loss += 5;
    if (point.step >= 2000) point.loss = 8.9;
  };
  const auto events = events_of(series(2030, lost));
  ASSERT_EQ(verdicts(events), (std::vector{kArmed, kSpike, kDivergence}));
  EXPECT_EQ(events[2].step, 2004);
  EXPECT_EQ(events[2].action, SpikeAction::kRollBack);
}

TEST(SpikeDetector, TellsAPlateauAfterASpikeFromRecovery) {
  const auto settles_higher = [](MetricPoint& point) {
    if (point.step >= 1500) point.loss += point.step < 1508 ? 1 : 0.085;
  };
  const auto events = events_of(series(1560, settles_higher));
  const std::vector<SpikeVerdict> seen = verdicts(events);
  EXPECT_EQ(seen.back(), kLevelShift);
  EXPECT_EQ(events.back().action, SpikeAction::kRollBack);
  EXPECT_EQ(events.back().onset, 1500);
  EXPECT_EQ(std::count(seen.begin(), seen.end(), kRecovered), 0);
}

TEST(SpikeDetector, TheGradientNormArmsButDoesNotFire) {
  const auto events = events_of(series(600, [](MetricPoint& point) {
    if (point.step >= 500 && point.step < 503) point.grad_norm = 50;
  }));
  ASSERT_EQ(verdicts(events), (std::vector{kArmed, kOutlier}));
  EXPECT_EQ(events[0].step, 500);
}

TEST(SpikeDetector, AnArmedGradientNormMakesOneSuspiciousLossASpike) {
  // The shape of BLOOM-176B's first spike: the norm climbs for four steps before the loss jumps.
  const auto events = events_of(series(600, [](MetricPoint& point) {
    constexpr double kNorms[] = {10, 60, 600, 4000};
    if (point.step >= 500 && point.step < 504)
      point.grad_norm = kNorms[static_cast<std::size_t>(point.step - 500)];
    if (point.step == 503) point.loss += 2.7;
  }));
  ASSERT_GE(events.size(), 2U);
  EXPECT_EQ(events[0].verdict, kArmed);
  EXPECT_EQ(events[0].step, 500);
  EXPECT_EQ(events[1].verdict, kSpike);
  EXPECT_EQ(events[1].step, 503);
  EXPECT_EQ(events[1].onset, 500);
}

TEST(SpikeDetector, SkipsThenRollsBackNonFiniteLosses) {
  const auto events = events_of(series(600, [](MetricPoint& point) {
    if (point.step >= 500 && point.step < 520) point.loss = point.step % 2 == 0 ? kNaN : -kInf;
  }));
  ASSERT_EQ(verdicts(events), (std::vector{kNonFinite, kNonFinite, kNonFinite}));
  EXPECT_EQ(events[0].action, SpikeAction::kSkipUpdate);
  EXPECT_EQ(events[1].action, SpikeAction::kSkipUpdate);
  EXPECT_EQ(events[2].action, SpikeAction::kRollBack);
  EXPECT_EQ(events[2].onset, 500);
}

TEST(SpikeDetector, ALossOfExactlyZeroIsAFailureNotAnImprovement) {
  const auto events = events_of(series(600, [](MetricPoint& point) {
    if (point.step >= 500) point.loss = 0;
  }));
  ASSERT_EQ(verdicts(events), (std::vector{kLossZero, kLossZero, kLossZero}));
  EXPECT_EQ(events[2].action, SpikeAction::kRollBack);
}

TEST(SpikeDetector, TellsFp16OverflowsFromTrouble) {
  const Change overflow_at_500 = [](MetricPoint& point) {
    if (point.step == 500) point.grad_norm = kInf;
  };
  EXPECT_EQ(verdicts(events_of(series(600, overflow_at_500))), (std::vector{kNonFinite}));

  SpikeOptions fp16;
  fp16.fp16_loss_scaling = true;
  const auto once = events_of(series(600, overflow_at_500), fp16);
  ASSERT_EQ(verdicts(once), (std::vector{kOverflow}));
  EXPECT_EQ(once[0].action, SpikeAction::kSkipUpdate);

  // The scale comes down at the start of every fp16 run; a burst later on is something else.
  const auto bursts = events_of(series(600,
                                       [](MetricPoint& point) {
                                         const bool start = point.step <= 16;
                                         const bool later = point.step >= 500 && point.step < 507;
                                         if (start || later) point.grad_norm = kNaN;
                                       }),
                                fp16);
  std::vector<std::int64_t> rollbacks;
  for (const SpikeEvent& event : bursts)
    if (event.action == SpikeAction::kRollBack) rollbacks.push_back(event.step);
  EXPECT_EQ(rollbacks, std::vector<std::int64_t>{505});
}

TEST(SpikeDetector, NoticesReportsWithoutALoss) {
  const auto events = events_of(series(
      600, [](MetricPoint& point) { point.missing = point.step >= 500 && point.step < 510; }));
  ASSERT_EQ(verdicts(events), (std::vector{kMissingReports}));
  EXPECT_EQ(events[0].step, 502);
  EXPECT_EQ(events[0].onset, 500);
}

TEST(SpikeDetector, NoticesAHoleInTheReports) {
  std::vector<MetricPoint> points = series(600);
  points.erase(points.begin() + 500, points.begin() + 520);
  const auto events = events_of(points);
  ASSERT_EQ(verdicts(events), (std::vector{kMissingReports}));
  EXPECT_EQ(events[0].step, 521);
}

TEST(SpikeDetector, FindsASlowDriftThatNoSampleShows) {
  const auto events = events_of(series(3000, [](MetricPoint& point) {
    if (point.step > 2000) point.loss += 0.001 * static_cast<double>(point.step - 2000);
  }));
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events[0].verdict, kLevelShift);
  const auto decided = std::find_if(events.begin(), events.end(), [](const SpikeEvent& event) {
    return event.action == SpikeAction::kRollBack;
  });
  ASSERT_NE(decided, events.end());
  EXPECT_EQ(decided->verdict, kLevelShift);
  EXPECT_LE(decided->step, 2300);
  EXPECT_GT(decided->onset, 2000);
}

TEST(SpikeDetector, ReportsASmallRiseOnceWithoutActing) {
  const auto events = events_of(series(4000, raised(3000, 4000, 0.075)));
  ASSERT_EQ(verdicts(events), (std::vector{kLevelShift}));
  EXPECT_EQ(events[0].action, SpikeAction::kNone);
}

TEST(SpikeDetector, ReportsAnAbnormalDropAndItsEndButDoesNotRollBack) {
  const auto events = events_of(series(1000, [](MetricPoint& point) {
    if (point.step >= 800 && point.step < 840) point.loss *= 0.6;
  }));
  ASSERT_EQ(verdicts(events), (std::vector{kAbnormalDrop, kRecovered}));
  EXPECT_EQ(events[0].step, 802);
  EXPECT_EQ(events[0].onset, 800);
  EXPECT_LE(events[1].step, 845);
}

TEST(SpikeDetector, LearnsALossThatStaysLow) {
  SpikeDetector detector({});
  const auto events = observe_all(detector, series(1400, [](MetricPoint& point) {
                                    if (point.step >= 800) point.loss *= 0.6;
                                  }));
  EXPECT_EQ(verdicts(events), (std::vector{kAbnormalDrop}));
  EXPECT_TRUE(detector.sound());
  EXPECT_NEAR(detector.save().baseline.level, 0.6 * 2.12, 0.05);
}

TEST(SpikeDetector, AnAnnouncedRampToleratesWhatItWouldElseArmOn) {
  const std::vector<MetricPoint> points = series(600, raised(500, 515, 0.16));
  EXPECT_FALSE(events_of(points).empty());
  SpikeDetector detector({});
  for (const MetricPoint& point : points) {
    if (point.step == 500)
      detector.note_context_change({ContextChange::Kind::kLearningRateRamp, 500, 520});
    EXPECT_TRUE(detector.observe(point).empty());
  }
}

TEST(SpikeDetector, LearnsAFreshBaselineAfterAPlannedChange) {
  SpikeDetector detector({});
  std::vector<SpikeEvent> events;
  for (const MetricPoint& point : series(1200, [](MetricPoint& changed) {
         if (changed.step > 500) changed.loss += 3;
         if (changed.step > 1000) changed.loss += 1;
       })) {
    if (point.step == 501)
      detector.note_context_change({ContextChange::Kind::kPlannedChange, 500, 0});
    for (SpikeEvent& event : detector.observe(point)) events.push_back(std::move(event));
  }
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events[0].step, 1001);
  EXPECT_NEAR(events[0].baseline, 5.27, 0.05);
}

TEST(SpikeDetector, ReportsARestoreThatLostTheTraining) {
  SpikeDetector detector({});
  observe_all(detector, series(1000));
  detector.note_context_change({ContextChange::Kind::kResume, 1000, 0});
  MetricPoint point = healthy_point(1001);
  point.loss = 11;
  const auto events = detector.observe(point);
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events[0].verdict, kRestoreMismatch);
  EXPECT_EQ(events[0].action, SpikeAction::kStop);
}

TEST(SpikeDetector, AResumeChangesNoDecision) {
  const std::vector<MetricPoint> points = series(700, raised(500, 560, 1));
  const auto undisturbed = events_of(points);
  for (const std::int64_t killed_at : {100, 450, 499, 503, 519, 540}) {
    SpikeDetector detector({});
    std::vector<SpikeEvent> events;
    for (const MetricPoint& point : points) {
      if (point.step == killed_at + 1) {
        detector = SpikeDetector::restore({}, detector.save());
        detector.note_context_change({ContextChange::Kind::kResume, killed_at, 0});
      }
      for (SpikeEvent& event : detector.observe(point))
        if (event.verdict != kRestoreMismatch) events.push_back(std::move(event));
    }
    EXPECT_EQ(verdicts(events), verdicts(undisturbed)) << "killed after step " << killed_at;
  }
}

TEST(SpikeDetector, HoldsOffAfterARollbackAndThenSeesARecurrence) {
  SpikeDetector detector({});
  observe_all(detector, series(400));
  detector.note_context_change({ContextChange::Kind::kRollback, 400, 0});
  SpikeOptions options;
  std::vector<SpikeEvent> events;
  for (std::int64_t step = 401; step <= 520; ++step) {
    MetricPoint point = healthy_point(step);
    if (step >= 405) point.loss += 1;
    for (SpikeEvent& event : detector.observe(point)) events.push_back(std::move(event));
  }
  ASSERT_GE(events.size(), 2U);
  EXPECT_EQ(events[0].verdict, kSpike);
  EXPECT_EQ(events[0].step, 400 + options.resume_hold + 1);
  EXPECT_EQ(events[1].verdict, kRollback);
  EXPECT_EQ(events[1].step, 400 + options.cooldown_samples);
}

TEST(SpikeDetector, ACheckpointIsSoundOnlyWhereNothingIsAmiss) {
  SpikeDetector detector({});
  for (const MetricPoint& point : series(600, raised(500, 512, 1))) {
    detector.observe(point);
    const bool trouble = point.step >= 500 && point.step <= 519;
    if (point.step < 500 || point.step > 530) {
      EXPECT_TRUE(detector.sound()) << "step " << point.step;
      EXPECT_EQ(detector.trouble_since(), point.step);
    } else if (trouble) {
      EXPECT_FALSE(detector.sound()) << "step " << point.step;
    }
    if (point.step >= 500 && point.step <= 510) {
      EXPECT_EQ(detector.trouble_since(), 500);
    }
  }
}

TEST(SpikeDetector, IgnoresAStepThatItHasSeen) {
  SpikeDetector detector({});
  observe_all(detector, series(300));
  const SpikeDetectorState before = detector.save();
  EXPECT_TRUE(detector.observe(healthy_point(300)).empty());
  EXPECT_TRUE(detector.observe(healthy_point(12)).empty());
  EXPECT_EQ(detector.save(), before);
}

TEST(SpikeDetector, SaysNothingWhenSwitchedOff) {
  SpikeOptions options;
  options.enabled = false;
  EXPECT_TRUE(events_of(series(600, raised(500, 600, 5)), options).empty());
}

TEST(SpikeDetector, EveryReasonIsASentenceWithNumbers) {
  for (const SpikeEvent& event : events_of(series(1500, raised(500, 1500, 1)))) {
    EXPECT_GT(event.reason.size(), 20U);
    EXPECT_NE(event.reason.find_first_of("0123456789"), std::string::npos) << event.reason;
  }
}

}  // namespace
}  // namespace tenax::scheduler
