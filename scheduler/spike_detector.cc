#include "scheduler/spike_detector.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <utility>

#include "common/check.h"
#include "scheduler/spike_hard_triggers.h"
#include "scheduler/spike_slow_changes.h"

namespace tenax::scheduler {
namespace {

constexpr std::size_t kNumFirstLosses = 5;

void push_bounded(double value, std::size_t capacity, std::vector<double>& values) {
  if (values.size() >= capacity) values.erase(values.begin());
  values.push_back(value);
}

int count_newest(std::uint64_t bits, std::int32_t n) {
  const std::uint64_t mask = n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  return std::popcount(bits & mask);
}

}  // namespace

SpikeDetector::SpikeDetector(SpikeOptions options) : options_(options) {
  TENAX_CHECK(validate(options_).has_value());
}

SpikeDetector SpikeDetector::restore(SpikeOptions options, SpikeDetectorState state) {
  SpikeDetector detector(options);
  detector.state_ = std::move(state);
  return detector;
}

std::vector<SpikeEvent> SpikeDetector::observe(const MetricPoint& point) {
  Events events;
  if (!options_.enabled || point.step <= state_.last_step) return events;
  if (observe_missing(options_, point, state_, events)) return events;
  if (observe_non_finite(options_, point, state_, events)) return events;
  observe_finite(point, events);
  return events;
}

void SpikeDetector::observe_finite(const MetricPoint& point, Events& events) {
  note_sample(point);
  if (measure().in_warmup()) {
    state_.check_restore = false;
    accept(point, events);
    return;
  }
  check_restore(point, events);
  if (state_.cooldown_samples > 0) --state_.cooldown_samples;
  const bool loss_suspicious = measure().loss_suspicious(point);
  if (state_.hold_samples > 0) {
    --state_.hold_samples;
    if (!loss_suspicious) accept(point, events);
    return;
  }
  const bool norm_suspicious = measure().grad_norm_suspicious(point);
  if (state_.phase == SpikePhase::kOk || state_.phase == SpikePhase::kRecovered) {
    if (loss_suspicious || norm_suspicious || rising(point))
      begin_excursion(point, loss_suspicious, events);
    else
      calm_sample(point, events);
    return;
  }
  state_.suspicious = (state_.suspicious << 1) | (loss_suspicious ? 1U : 0U);
  state_.arming = (state_.arming << 1) | (loss_suspicious || norm_suspicious ? 1U : 0U);
  ++state_.since_onset;
  state_.divergent = measure().diverged(point.loss) ? state_.divergent + 1 : 0;
  state_.peak = std::max(state_.peak, point.loss);
  if (state_.phase == SpikePhase::kArmed)
    armed_sample(point, loss_suspicious, events);
  else if (state_.phase == SpikePhase::kSpike)
    spiking_sample(point, events);
  else
    undone_rollback_sample(point, events);
}

void SpikeDetector::check_restore(const MetricPoint& point, Events& events) {
  if (!state_.check_restore) return;
  state_.check_restore = false;
  const double distance = measure().score(point.loss, point.step);
  if (std::abs(distance) <= options_.restore_sigmas) return;
  events.push_back(measure().event(
      point, SpikeVerdict::kRestoreMismatch, SpikeAction::kStop,
      fmt::format(
          "the first loss after the restore is {:.4g}, {:.1f} robust sigmas from the {:.4g} "
          "before it: the restored state is not the saved one",
          point.loss, distance, state_.baseline.level)));
}

bool SpikeDetector::rising(const MetricPoint& point) const {
  return measure().score(point.loss, point.step) > options_.release_fraction * options_.sigmas &&
         measure().confirmed(point.step);
}

void SpikeDetector::begin_excursion(const MetricPoint& point, bool loss_suspicious,
                                    Events& events) {
  const bool again = state_.phase == SpikePhase::kRecovered;
  state_.phase = SpikePhase::kArmed;
  state_.onset = point.step;
  state_.since_onset = 1;
  state_.suspicious = loss_suspicious ? 1 : 0;
  state_.arming = 1;
  state_.divergent = measure().diverged(point.loss) ? 1 : 0;
  state_.peak = point.loss;
  if ((again && loss_suspicious) || measure().confirmed(point.step)) {
    confirm_spike(point, events);
    return;
  }
  events.push_back(measure().event(
      point, SpikeVerdict::kArmed, SpikeAction::kNone,
      loss_suspicious
          ? fmt::format(
                "loss {:.4g} is {:.3g} above the baseline {:.4g}, suspicious from {:.3g} on",
                point.loss, point.loss - state_.baseline.level, state_.baseline.level,
                measure().suspicious_rise(point.step))
          : fmt::format(
                "gradient norm {:.4g} is {:.3g} times its median {:.4g}; the loss {:.4g} is "
                "still normal",
                *point.grad_norm, *point.grad_norm / state_.baseline.grad_norm_level,
                state_.baseline.grad_norm_level, point.loss)));
}

void SpikeDetector::calm_sample(const MetricPoint& point, Events& events) {
  if (state_.phase == SpikePhase::kRecovered && --state_.recovered_left <= 0)
    state_.phase = SpikePhase::kOk;
  if (!observe_drop(options_, point, state_, events)) accept(point, events);
}

void SpikeDetector::armed_sample(const MetricPoint& point, bool loss_suspicious, Events& events) {
  const bool norm_armed = (state_.arming & ~state_.suspicious) != 0;
  if (measure().confirmed(point.step) || (norm_armed && loss_suspicious)) {
    confirm_spike(point, events);
    return;
  }
  if (count_newest(state_.arming, options_.confirm_of - 1) > 0) return;
  const bool loss_seen = state_.suspicious != 0;
  events.push_back(measure().event(
      point, SpikeVerdict::kOutlier, SpikeAction::kNone,
      loss_seen
          ? fmt::format("the loss went to {:.4g} at step {} and is {:.4g} again at a baseline "
                        "of {:.4g}: one batch",
                        state_.peak, state_.onset, point.loss, state_.baseline.level)
          : fmt::format("the gradient norm armed at step {} but the loss {:.4g} did not follow",
                        state_.onset, point.loss)));
  end_excursion(SpikePhase::kOk);
}

void SpikeDetector::confirm_spike(const MetricPoint& point, Events& events) {
  state_.phase = SpikePhase::kSpike;
  events.push_back(measure().event(
      point, SpikeVerdict::kSpike, SpikeAction::kNone,
      fmt::format("the loss rose from {:.4g} to {:.4g} since step {} ({:.1f} robust sigmas now); "
                  "watching whether it heals within {} samples",
                  state_.baseline.level, state_.peak, state_.onset,
                  measure().score(point.loss, point.step), options_.patience)));
}

void SpikeDetector::spiking_sample(const MetricPoint& point, Events& events) {
  if (measure().back_to_normal(point.step)) {
    events.push_back(measure().event(
        point, SpikeVerdict::kRecovered, SpikeAction::kNone,
        fmt::format(
            "the loss is back at {:.4g} (baseline {:.4g}) {} samples after the onset at step "
            "{}; its peak was {:.4g}",
            point.loss, state_.baseline.level, state_.since_onset, state_.onset, state_.peak)));
    end_excursion(SpikePhase::kRecovered);
    state_.recovered_left = options_.recovery_samples;
    return;
  }
  if (state_.divergent >= options_.divergence_samples) {
    decide_rollback(
        point, SpikeVerdict::kDivergence,
        fmt::format("the loss {:.4g} has been back at that of an untrained model for {} "
                    "samples (baseline {:.4g}, onset at step {})",
                    point.loss, state_.divergent, state_.baseline.level, state_.onset),
        events);
    return;
  }
  if (state_.cooldown_samples > 0 || state_.since_onset < options_.patience) return;
  const int raised = count_newest(state_.suspicious, options_.patience);
  const bool still = (state_.suspicious & 1U) != 0;
  if (still && raised >= options_.patience_share * options_.patience) {
    decide_rollback(
        point, SpikeVerdict::kRollback,
        fmt::format(
            "{} of the last {} samples are suspicious and the loss is {:.4g} at a baseline of "
            "{:.4g}: the spike of step {} does not heal",
            raised, options_.patience, point.loss, state_.baseline.level, state_.onset),
        events);
    return;
  }
  const double plateau = measure().recent_median(options_.patience);
  const double normal =
      state_.baseline.level + options_.release_fraction * measure().suspicious_rise(point.step);
  if (state_.since_onset >= 2 * options_.patience && plateau > normal)
    decide_rollback(point, SpikeVerdict::kLevelShift,
                    fmt::format("after the spike of step {} the loss settled at {:.4g}, not at the "
                                "{:.4g} before it",
                                state_.onset, plateau, state_.baseline.level),
                    events);
}

void SpikeDetector::decide_rollback(const MetricPoint& point, SpikeVerdict verdict, std::string why,
                                    Events& events) {
  events.push_back(measure().event(point, verdict, SpikeAction::kRollBack, std::move(why)));
  state_.phase = SpikePhase::kRollback;
  state_.since_verdict = 0;
}

void SpikeDetector::undone_rollback_sample(const MetricPoint& point, Events& events) {
  ++state_.since_verdict;
  if (measure().back_to_normal(point.step)) {
    events.push_back(measure().event(
        point, SpikeVerdict::kRecovered, SpikeAction::kNone,
        fmt::format("the loss is back at {:.4g} without a rollback, {} samples after the onset "
                    "at step {}",
                    point.loss, state_.since_onset, state_.onset)));
    end_excursion(SpikePhase::kRecovered);
    state_.recovered_left = options_.recovery_samples;
    return;
  }
  if (state_.since_verdict < options_.adopt_samples) return;
  adopt_recent(options_, state_);
  events.push_back(measure().event(
      point, SpikeVerdict::kLevelShift, SpikeAction::kNone,
      fmt::format("{} samples after a verdict that nobody acted on, {:.4g} is the new baseline",
                  state_.since_verdict, state_.baseline.level)));
  end_excursion(SpikePhase::kOk);
}

void SpikeDetector::accept(const MetricPoint& point, Events& events) {
  const SpikeBaseline baseline(options_.window);
  if (point.grad_norm && is_usable(*point.grad_norm))
    baseline.accept_grad_norm(*point.grad_norm, state_.baseline);
  baseline.accept(point.loss, state_.baseline);
  if (!measure().in_ramp(point.step) && !measure().in_warmup())
    observe_block(options_, point, state_, events);
}

void SpikeDetector::note_context_change(const ContextChange& change) {
  switch (change.kind) {
    case ContextChange::Kind::kLearningRateRamp:
    case ContextChange::Kind::kBatchRamp:
      state_.ramp_until = std::max(state_.ramp_until, change.until_step);
      forget_blocks(state_);
      return;
    case ContextChange::Kind::kMembership:
    case ContextChange::Kind::kResume:
      state_.check_restore = true;
      return;
    case ContextChange::Kind::kPlannedChange:
      end_excursion(SpikePhase::kOk);
      state_.baseline = {};
      state_.recent.clear();
      state_.num_samples = 0;
      state_.drop_streak = 0;
      forget_blocks(state_);
      return;
    case ContextChange::Kind::kRollback:
      end_excursion(SpikePhase::kOk);
      state_.bad_streak = 0;
      state_.missing_streak = 0;
      state_.overflows = 0;
      state_.check_restore = true;
      state_.hold_samples = options_.resume_hold;
      state_.cooldown_samples = options_.cooldown_samples;
      state_.last_step = change.step;
      return;
  }
}

bool SpikeDetector::sound() const {
  return state_.phase == SpikePhase::kOk && state_.bad_streak == 0 && state_.missing_streak == 0 &&
         state_.drop_streak == 0 && state_.shift_streak != 1 && !state_.overflow_reported;
}

std::int64_t SpikeDetector::trouble_since() const {
  std::int64_t since = state_.last_step;
  if (state_.phase != SpikePhase::kOk && state_.onset >= 0) since = std::min(since, state_.onset);
  if (state_.bad_streak > 0) since = std::min(since, state_.bad_onset);
  if (state_.missing_streak > 0) since = std::min(since, state_.missing_onset);
  if (state_.drop_streak > 0) since = std::min(since, state_.drop_onset);
  if (state_.shift_streak == 1) since = std::min(since, state_.shift_onset);
  return since;
}

void SpikeDetector::note_sample(const MetricPoint& point) {
  ++state_.num_samples;
  if (state_.first_losses.size() < kNumFirstLosses) state_.first_losses.push_back(point.loss);
  push_bounded(point.loss, static_cast<std::size_t>(options_.window), state_.recent);
}

void SpikeDetector::end_excursion(SpikePhase phase) {
  state_.phase = phase;
  state_.onset = -1;
  state_.since_onset = 0;
  state_.since_verdict = 0;
  state_.suspicious = 0;
  state_.arming = 0;
  state_.divergent = 0;
  state_.peak = 0;
}

}  // namespace tenax::scheduler
