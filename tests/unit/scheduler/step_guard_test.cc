#include "scheduler/step_guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "scheduler/spike_monitor.h"

namespace tenax::scheduler {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

StepReport applied(std::int64_t step, double grad_norm, double clip_norm = 1.0) {
  StepReport r;
  r.step = step;
  r.loss = 2;
  r.grad_norm = grad_norm;
  r.clip_norm = clip_norm;
  r.learning_rate = 1e-3;
  r.tokens = 100;
  return r;
}

GuardState after(const GuardOptions& options, const std::vector<double>& norms) {
  GuardState state;
  for (std::size_t i = 0; i < norms.size(); ++i)
    observe_step(options, applied(static_cast<std::int64_t>(i) + 1, norms[i], options.clip_norm),
                 state);
  return state;
}

TEST(StepGuard, NonFiniteNumbersAreHeldOnceAndThenSkipped) {
  for (const auto& [loss, norm] : {std::pair(kNan, 1.0), {2.0, kNan}, {2.0, kInf}, {kInf, kInf}}) {
    EXPECT_EQ(judge_step({}, {}, {5, loss, norm}).action, GuardAction::kHold);
    for (const HoldOutcome held : {HoldOutcome::kSame, HoldOutcome::kDiffered}) {
      const GuardVerdict again = judge_step({}, {}, {5, loss, norm, held});
      EXPECT_EQ(again.action, GuardAction::kSkip);
      EXPECT_EQ(again.update, UpdateKind::kSkippedNonFinite);
    }
  }
  GuardOptions at_once;
  at_once.recompute = false;
  EXPECT_EQ(judge_step(at_once, {}, {5, kNan, 1.0}).action, GuardAction::kSkip);
}

TEST(StepGuard, ASecondComputationThatIsFiniteCounts) {
  const GuardVerdict again = judge_step({}, {}, {5, 2.0, 0.5, HoldOutcome::kDiffered});
  EXPECT_EQ(again.action, GuardAction::kAccept);
  EXPECT_EQ(again.update, UpdateKind::kApplied);
}

TEST(StepGuard, AnOverflowOfScaledGradientsIsSkippedAndNotHeld) {
  GuardOptions fp16;
  fp16.fp16_loss_scaling = true;
  const GuardVerdict overflow = judge_step(fp16, {}, {5, 2.0, kInf});
  EXPECT_EQ(overflow.action, GuardAction::kSkip);
  EXPECT_EQ(overflow.update, UpdateKind::kSkippedOverflow);
  // A loss that is not finite is real trouble, scaled or not.
  EXPECT_EQ(judge_step(fp16, {}, {5, kNan, kInf}).action, GuardAction::kHold);
}

TEST(StepGuard, AGradientNormFarAboveItsLevelIsHeldAndThenClipped) {
  const GuardOptions options;
  const GuardState state = after(options, std::vector<double>(20, 0.5));
  EXPECT_EQ(judge_step(options, state, {21, 2, 0.5 * 19}).action, GuardAction::kAccept);
  EXPECT_EQ(judge_step(options, state, {21, 2, 0.5 * 21}).action, GuardAction::kHold);
  const GuardVerdict again = judge_step(options, state, {21, 2, 0.5 * 21, HoldOutcome::kSame});
  EXPECT_EQ(again.action, GuardAction::kAccept);
  EXPECT_EQ(again.clip_norm, options.clip_norm);
  GuardOptions skipping;
  skipping.skip_outliers = true;
  const GuardVerdict skipped = judge_step(skipping, state, {21, 2, 0.5 * 21, HoldOutcome::kSame});
  EXPECT_EQ(skipped.action, GuardAction::kSkip);
  EXPECT_EQ(skipped.update, UpdateKind::kSkippedOutlier);
}

TEST(StepGuard, TooFewStepsAreNoLevel) {
  const GuardState state = after({}, std::vector<double>(7, 0.5));
  EXPECT_EQ(judge_step({}, state, {8, 2, 1000}).action, GuardAction::kAccept);
}

TEST(StepGuard, SpikesComeInGroupsSoConfirmedOutliersPauseHolding) {
  const GuardOptions options;
  GuardState state = after(options, std::vector<double>(20, 0.5));
  StepReport confirmed = applied(21, 50);
  confirmed.held = HoldOutcome::kSame;
  observe_step(options, confirmed, state);
  EXPECT_EQ(judge_step(options, state, {21 + options.pause_steps, 2, 50}).action,
            GuardAction::kAccept);
  EXPECT_EQ(judge_step(options, state, {22 + options.pause_steps, 2, 50}).action,
            GuardAction::kHold);
  // Not so numbers that are not finite.
  EXPECT_EQ(judge_step(options, state, {22, kNan, 50}).action, GuardAction::kHold);
}

TEST(StepGuard, OutliersAndSkippedStepsHardlyMoveTheLevel) {
  const GuardOptions options;
  GuardState state = after(options, std::vector<double>(30, 0.5));
  observe_step(options, applied(31, 1e20), state);
  EXPECT_LT(state.norm_level, 0.56);
  const GuardState before = state;
  StepReport skipped = applied(32, kNan);
  skipped.update = UpdateKind::kSkippedNonFinite;
  observe_step(options, skipped, state);
  EXPECT_EQ(state, before);
}

// Mean and variance as in the paper: exponential, fed with the norms as they were clipped.
TEST(StepGuard, AdaptiveClippingIsZClip) {
  GuardOptions options;
  options.adaptive_clip = true;
  options.clip_norm = 0;
  options.adaptive_warmup = 25;
  GuardState state;
  double mean = 0;
  double variance = 0;
  std::int64_t step = 0;
  const auto next = [&](double norm, double clip) {
    StepReport r = applied(++step, norm, clip);
    observe_step(options, r, state);
  };
  for (int i = 0; i < 200; ++i) next(1 + 0.1 * std::sin(i * 1.7), 0);
  mean = state.norm_mean;
  variance = state.norm_variance;
  EXPECT_NEAR(mean, 1, 0.02);
  EXPECT_NEAR(variance, 0.005, 0.0025);  // of a sine of amplitude 0.1

  for (const double norm : {1.05, 1.5, 8.0, 1.0, 40.0}) {
    const double deviation = std::sqrt(variance);
    const double z = (norm - mean) / deviation;
    const double expected = z > 2.5 ? mean + 2.5 * 2.5 / z * deviation : norm;
    const GuardVerdict verdict = judge_step(options, state, {step + 1, 2, norm});
    if (verdict.action == GuardAction::kHold) continue;
    const double used = verdict.clip_norm > 0 ? std::min(norm, verdict.clip_norm) : norm;
    EXPECT_NEAR(used, expected, 1e-12 * expected) << norm;
    next(norm, verdict.clip_norm);
    variance = 0.97 * (variance + 0.03 * (used - mean) * (used - mean));
    mean = 0.97 * mean + 0.03 * used;
    EXPECT_NEAR(state.norm_mean, mean, 1e-12);
    EXPECT_NEAR(state.norm_variance, variance, 1e-12);
  }
}

TEST(StepGuard, AdaptiveClippingNeverLoosensTheFixedLimit) {
  GuardOptions options;
  options.adaptive_clip = true;
  const GuardState state = after(options, std::vector<double>(100, 5.0));
  EXPECT_LE(judge_step(options, state, {101, 2, 50}).clip_norm, options.clip_norm);
}

// What plans and checkpoints carry is what a rank that never stopped knows.
TEST(StepGuard, TheMonitorKnowsTheStateAfterEveryStepOfItsHistory) {
  SpikeMonitorOptions options;
  options.guard.adaptive_clip = true;
  options.max_history = 40;  // so that it is folded
  const SpikeMonitor monitor(options);
  SpikeMonitorState known = monitor.initial();
  GuardState rank;
  std::vector<GuardState> states{rank};
  for (std::int64_t step = 1; step <= 100; ++step) {
    StepReport r = applied(step, 1 + 0.5 * std::sin(static_cast<double>(step)));
    r.clip_norm = judge_step(options.guard, rank, {step, r.loss, r.grad_norm}).clip_norm;
    monitor.observe(known, r, 8, 1000);
    observe_step(options.guard, r, rank);
    states.push_back(rank);
    for (std::int64_t s = known.guard_base_step; s <= step; ++s)
      ASSERT_EQ(monitor.guard_after(known, s), states[static_cast<std::size_t>(s)]) << s;
  }
  EXPECT_GT(known.guard_base_step, 0);
  // A rollback deeper than the history goes on from a checkpoint's state, fed by the replay.
  monitor.rewind(known, 30, 20, states[20]);
  EXPECT_EQ(monitor.guard_after(known, 30), states[20]);
  for (std::int64_t step = 21; step <= 30; ++step) {
    StepReport r = applied(step, 1 + 0.5 * std::sin(static_cast<double>(step)));
    r.clip_norm = judge_step(options.guard, states[static_cast<std::size_t>(step - 1)],
                             {step, r.loss, r.grad_norm})
                      .clip_norm;
    monitor.observe_forgotten(known, r);
  }
  EXPECT_EQ(monitor.guard_after(known, 30), states[30]);
}

TEST(SpikeMonitor, ACheckpointOfAnArmedStepIsUnsoundHoweverLateItIsCommitted) {
  SpikeMonitorOptions options;
  const SpikeMonitor monitor(options);
  SpikeMonitorState state = monitor.initial();
  for (std::int64_t step = 1; step <= 200; ++step) {
    StepReport r = applied(step, 0.5);
    r.loss = step == 150 ? 9.0 : 2 + 0.01 * static_cast<double>(step % 7);
    monitor.observe(state, r, 8, 100000);
  }
  EXPECT_TRUE(monitor.sound(state));
  EXPECT_TRUE(monitor.sound_after(state, 149));
  EXPECT_FALSE(monitor.sound_after(state, 150));
  EXPECT_TRUE(monitor.sound_after(state, 200));
  monitor.rewind(state, 120, 0, {});
  EXPECT_TRUE(monitor.sound_after(state, 150));
}

TEST(SpikeMonitor, ARiseOfTheLearningRateWidensTheThresholdsUntilItHasSettled) {
  const auto phases_after = [](double rate_at_150) {
    SpikeMonitorOptions options;
    const SpikeMonitor monitor(options);
    SpikeMonitorState state = monitor.initial();
    std::size_t armed = 0;
    for (std::int64_t step = 1; step <= 160; ++step) {
      StepReport r = applied(step, 0.5);
      r.learning_rate = step >= 150 ? rate_at_150 : 1e-3;
      // 1.5 times what is suspicious without a ramp.
      r.loss = 2 + 0.001 * static_cast<double>(step % 7) + (step == 155 ? 0.15 : 0);
      armed += monitor.observe(state, r, 8, 100000).events.size();
    }
    return armed;
  };
  EXPECT_GT(phases_after(1e-3), 0u);
  EXPECT_EQ(phases_after(2e-3), 0u);
}

TEST(SpikeMonitor, ARollbackNamesTheJumpOfTheLearningRateBeforeTheOnset) {
  SpikeMonitorOptions options;
  const SpikeMonitor monitor(options);
  SpikeMonitorState state = monitor.initial();
  for (std::int64_t step = 1; step <= 200; ++step) {
    StepReport r = applied(step, 0.5);
    r.learning_rate = step >= 150 ? 3e-2 : 1e-3;
    r.loss = step >= 151 ? 6.0 : 2 + 0.001 * static_cast<double>(step % 7);
    const SpikeDecision decision = monitor.observe(state, r, 8, 100000);
    if (!decision.roll_back) continue;
    EXPECT_NE(decision.reason.find("the learning rate went from 0.001 to 0.03 at step 150"),
              std::string::npos)
        << decision.reason;
    return;
  }
  FAIL() << "no rollback";
}

}  // namespace
}  // namespace tenax::scheduler
