#include "scheduler/spike_detector.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <utility>

#include "common/check.h"

namespace tenax::scheduler {
namespace {

constexpr std::size_t kNumFirstLosses = 5;
/// A gap this many times the last one is a hole in the reports.
constexpr std::int64_t kGapFactor = 3;

void push_bounded(double value, std::size_t capacity, std::vector<double>& values) {
  if (values.size() >= capacity) values.erase(values.begin());
  values.push_back(value);
}

int count_newest(std::uint64_t bits, std::int32_t n) {
  const std::uint64_t mask = n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  return std::popcount(bits & mask);
}

std::string ordinal(std::int64_t n) {
  const char* suffix = n % 100 / 10 == 1 ? "th"
                       : n % 10 == 1     ? "st"
                       : n % 10 == 2     ? "nd"
                       : n % 10 == 3     ? "rd"
                                         : "th";
  return fmt::format("{}{}", n, suffix);
}

}  // namespace

SpikeDetector::SpikeDetector(SpikeOptions options) : options_(options), baseline_(options.window) {
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
  if (observe_gap(point, events)) return events;
  const bool overflow = point.grad_norm && !std::isfinite(*point.grad_norm);
  if (!std::isfinite(point.loss) || point.loss == 0 || (overflow && !options_.fp16_loss_scaling)) {
    observe_bad_sample(point, events);
    return events;
  }
  state_.bad_streak = 0;
  if (options_.fp16_loss_scaling) observe_overflow(point, overflow, events);
  observe_finite(point, events);
  return events;
}

bool SpikeDetector::observe_gap(const MetricPoint& point, Events& events) {
  const std::int64_t gap = state_.last_step < 0 ? 0 : point.step - state_.last_step;
  const bool hole = state_.last_gap > 0 && gap > kGapFactor * state_.last_gap;
  if (hole)
    events.push_back(
        event(point, SpikeVerdict::kMissingReports, SpikeAction::kNone,
              fmt::format("no report for {} steps after step {}; they came every {} steps before",
                          gap - 1, state_.last_step, state_.last_gap)));
  state_.last_gap = gap;
  state_.last_step = point.step;
  if (!point.missing) {
    state_.missing_streak = 0;
    return false;
  }
  if (state_.missing_streak == 0) state_.missing_onset = point.step;
  if (++state_.missing_streak == options_.missing_patience) {
    SpikeEvent missing =
        event(point, SpikeVerdict::kMissingReports, SpikeAction::kReplayStep,
              fmt::format("{} reports in a row from step {} on came without a loss",
                          state_.missing_streak, state_.missing_onset));
    missing.onset = state_.missing_onset;
    events.push_back(std::move(missing));
  }
  return true;
}

void SpikeDetector::observe_bad_sample(const MetricPoint& point, Events& events) {
  if (state_.bad_streak == 0) state_.bad_onset = point.step;
  ++state_.bad_streak;
  if (state_.bad_streak > options_.non_finite_patience) return;
  const bool zero = point.loss == 0;
  const std::string what = zero ? "the loss is exactly zero"
                           : !std::isfinite(point.loss)
                               ? fmt::format("the loss is {}", point.loss)
                               : fmt::format("the gradient norm is {}", *point.grad_norm);
  const bool give_up = state_.bad_streak == options_.non_finite_patience;
  SpikeEvent bad = event(
      point, zero ? SpikeVerdict::kLossZero : SpikeVerdict::kNonFinite,
      give_up ? SpikeAction::kRollBack : SpikeAction::kSkipUpdate,
      give_up
          ? fmt::format("{}, the {} sample in a row without usable numbers since step {}: skipping "
                        "updates does not help",
                        what, ordinal(state_.bad_streak), state_.bad_onset)
          : what + "; the update is skipped");
  bad.onset = state_.bad_onset;
  events.push_back(std::move(bad));
}

void SpikeDetector::observe_overflow(const MetricPoint& point, bool overflow, Events& events) {
  state_.overflows = ((state_.overflows << 1) | (overflow ? 1U : 0U)) & 0xFFU;
  const int burst = std::popcount(state_.overflows);
  const bool too_many = burst >= options_.overflow_burst && !in_baseline_warmup();
  if (!too_many) state_.overflow_reported = false;
  if (!overflow || state_.overflow_reported) return;
  state_.overflow_reported = too_many;
  events.push_back(event(
      point, SpikeVerdict::kOverflow, too_many ? SpikeAction::kRollBack : SpikeAction::kSkipUpdate,
      fmt::format("the gradient norm is {} while the loss {:.4g} is finite, in {} of the last 8 "
                  "samples; {}",
                  *point.grad_norm, point.loss, burst,
                  too_many ? "more than loss scaling explains" : "the update is skipped")));
}

void SpikeDetector::observe_finite(const MetricPoint& point, Events& events) {
  note_sample(point);
  if (in_baseline_warmup()) {
    accept(point, events);
    return;
  }
  check_restore(point, events);
  if (state_.cooldown_samples > 0) --state_.cooldown_samples;
  const bool loss_suspicious = score(point.loss, point.step) > options_.sigmas;
  if (state_.hold_samples > 0) {
    --state_.hold_samples;
    if (!loss_suspicious) accept(point, events);
    return;
  }
  const bool norm_suspicious =
      point.grad_norm && std::isfinite(*point.grad_norm) && state_.baseline.grad_norm_level > 0 &&
      *point.grad_norm > options_.grad_norm_factor *
                             (in_ramp(point.step) ? options_.ramp_tolerance : 1) *
                             state_.baseline.grad_norm_level;
  if (state_.phase == SpikePhase::kOk || state_.phase == SpikePhase::kRecovered) {
    if (loss_suspicious || norm_suspicious)
      begin_excursion(point, loss_suspicious, events);
    else
      calm_sample(point, events);
    return;
  }
  state_.suspicious = (state_.suspicious << 1) | (loss_suspicious ? 1U : 0U);
  state_.arming = (state_.arming << 1) | (loss_suspicious || norm_suspicious ? 1U : 0U);
  ++state_.since_onset;
  state_.divergent = diverged(point.loss) ? state_.divergent + 1 : 0;
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
  const double distance = score(point.loss, point.step);
  if (std::abs(distance) <= options_.restore_sigmas) return;
  events.push_back(
      event(point, SpikeVerdict::kRestoreMismatch, SpikeAction::kStop,
            fmt::format(
                "the first loss after the restore is {:.4g}, {:.1f} robust sigmas from the {:.4g} "
                "before it: the restored state is not the saved one",
                point.loss, distance, state_.baseline.level)));
}

void SpikeDetector::begin_excursion(const MetricPoint& point, bool loss_suspicious,
                                    Events& events) {
  const bool again = state_.phase == SpikePhase::kRecovered;
  state_.phase = SpikePhase::kArmed;
  state_.onset = point.step;
  state_.since_onset = 1;
  state_.suspicious = loss_suspicious ? 1 : 0;
  state_.arming = 1;
  state_.divergent = diverged(point.loss) ? 1 : 0;
  state_.peak = point.loss;
  if (again && loss_suspicious) {
    confirm_spike(point, events);
    return;
  }
  events.push_back(
      event(point, SpikeVerdict::kArmed, SpikeAction::kNone,
            loss_suspicious
                ? fmt::format(
                      "loss {:.4g} is {:.3g} above the baseline {:.4g}, suspicious from {:.3g} on",
                      point.loss, point.loss - state_.baseline.level, state_.baseline.level,
                      suspicious_rise(point.step))
                : fmt::format(
                      "gradient norm {:.4g} is {:.1f} times its median {:.4g}; the loss {:.4g} is "
                      "still normal",
                      *point.grad_norm, *point.grad_norm / state_.baseline.grad_norm_level,
                      state_.baseline.grad_norm_level, point.loss)));
}

void SpikeDetector::calm_sample(const MetricPoint& point, Events& events) {
  if (state_.phase == SpikePhase::kRecovered && --state_.recovered_left <= 0)
    state_.phase = SpikePhase::kOk;
  if (!dropped(point, events)) accept(point, events);
}

void SpikeDetector::armed_sample(const MetricPoint& point, bool loss_suspicious, Events& events) {
  const bool norm_armed = (state_.arming & ~state_.suspicious) != 0;
  if (count_newest(state_.suspicious, options_.confirm_of) >= options_.confirm_count ||
      (norm_armed && loss_suspicious)) {
    confirm_spike(point, events);
    return;
  }
  if (count_newest(state_.arming, options_.confirm_of - 1) > 0) return;
  const bool loss_seen = state_.suspicious != 0;
  events.push_back(event(
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
  events.push_back(event(
      point, SpikeVerdict::kSpike, SpikeAction::kNone,
      fmt::format("the loss rose from {:.4g} to {:.4g} since step {} ({:.1f} robust sigmas now); "
                  "watching whether it heals within {} samples",
                  state_.baseline.level, state_.peak, state_.onset, score(point.loss, point.step),
                  options_.patience)));
}

void SpikeDetector::spiking_sample(const MetricPoint& point, Events& events) {
  if (back_to_normal(point.step)) {
    events.push_back(event(
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
  if (raised >= options_.patience_share * options_.patience) {
    decide_rollback(
        point, SpikeVerdict::kRollback,
        fmt::format(
            "{} of the last {} samples are suspicious and the loss is {:.4g} at a baseline of "
            "{:.4g}: the spike of step {} does not heal",
            raised, options_.patience, point.loss, state_.baseline.level, state_.onset),
        events);
    return;
  }
  const double plateau = recent_median(options_.patience);
  const double normal =
      state_.baseline.level + options_.release_fraction * suspicious_rise(point.step);
  if (state_.since_onset >= 2 * options_.patience && plateau > normal)
    decide_rollback(point, SpikeVerdict::kLevelShift,
                    fmt::format("after the spike of step {} the loss settled at {:.4g}, not at the "
                                "{:.4g} before it",
                                state_.onset, plateau, state_.baseline.level),
                    events);
}

void SpikeDetector::decide_rollback(const MetricPoint& point, SpikeVerdict verdict, std::string why,
                                    Events& events) {
  events.push_back(event(point, verdict, SpikeAction::kRollBack, std::move(why)));
  state_.phase = SpikePhase::kRollback;
  state_.since_verdict = 0;
}

void SpikeDetector::undone_rollback_sample(const MetricPoint& point, Events& events) {
  ++state_.since_verdict;
  if (back_to_normal(point.step)) {
    events.push_back(event(
        point, SpikeVerdict::kRecovered, SpikeAction::kNone,
        fmt::format("the loss is back at {:.4g} without a rollback, {} samples after the onset "
                    "at step {}",
                    point.loss, state_.since_onset, state_.onset)));
    end_excursion(SpikePhase::kRecovered);
    state_.recovered_left = options_.recovery_samples;
    return;
  }
  if (state_.since_verdict < options_.adopt_samples) return;
  adopt_recent();
  events.push_back(event(
      point, SpikeVerdict::kLevelShift, SpikeAction::kNone,
      fmt::format("{} samples after a verdict that nobody acted on, {:.4g} is the new baseline",
                  state_.since_verdict, state_.baseline.level)));
  end_excursion(SpikePhase::kOk);
}

bool SpikeDetector::in_drop(double loss, std::int64_t step) const {
  const SpikeBaselineState& base = state_.baseline;
  const double fall = base.level - loss;
  return fall > options_.drop_sigmas * base.sigma &&
         fall > options_.drop_relative * std::abs(base.level) && !in_ramp(step);
}

bool SpikeDetector::dropped(const MetricPoint& point, Events& events) {
  const bool reported = state_.drop_streak >= options_.drop_confirm;
  const double seen = reported ? recent_median(options_.recovery_samples) : point.loss;
  if (!in_drop(seen, point.step)) {
    if (reported) {
      SpikeEvent back = event(point, SpikeVerdict::kRecovered, SpikeAction::kNone,
                              fmt::format("the loss is back at {:.4g} (baseline {:.4g}) after the "
                                          "drop of step {}",
                                          point.loss, state_.baseline.level, state_.drop_onset));
      back.onset = state_.drop_onset;
      events.push_back(std::move(back));
    }
    state_.drop_streak = 0;
    return false;
  }
  if (state_.drop_streak++ == 0) state_.drop_onset = point.step;
  if (state_.drop_streak == options_.drop_confirm) {
    SpikeEvent drop = event(
        point, SpikeVerdict::kAbnormalDrop, SpikeAction::kNone,
        fmt::format("the loss fell to {:.4g}, {:.3g} under its trend of {:.4g}: repeated data, "
                    "a leak, or a wrong scale?",
                    point.loss, state_.baseline.level - point.loss, state_.baseline.level));
    drop.onset = state_.drop_onset;
    events.push_back(std::move(drop));
  }
  if (state_.drop_streak >= options_.adopt_samples) {
    adopt_recent();
    state_.drop_streak = 0;
  }
  return true;
}

void SpikeDetector::adopt_recent() {
  const auto kept =
      std::min(state_.recent.size(), static_cast<std::size_t>(options_.adopt_samples));
  baseline_.reset({state_.recent.end() - static_cast<std::ptrdiff_t>(kept), state_.recent.end()},
                  state_.baseline);
  forget_blocks();
}

void SpikeDetector::forget_blocks() {
  state_.block.clear();
  state_.block_levels.clear();
  state_.shift_streak = 0;
}

void SpikeDetector::accept(const MetricPoint& point, Events& events) {
  if (point.grad_norm && std::isfinite(*point.grad_norm))
    baseline_.accept_grad_norm(*point.grad_norm, state_.baseline);
  baseline_.accept(point.loss, state_.baseline);
  if (in_ramp(point.step) || in_baseline_warmup()) return;
  if (state_.block.empty()) state_.block_begin = point.step;
  state_.block.push_back(point.loss);
  if (state_.block.size() >= static_cast<std::size_t>(options_.shift_block))
    close_block(point, events);
}

void SpikeDetector::close_block(const MetricPoint& point, Events& events) {
  const double level = median_in_place(state_.block);
  state_.block.clear();
  if (!state_.block_levels.empty()) compare_block(point, level, events);
  push_bounded(level, static_cast<std::size_t>(options_.shift_history), state_.block_levels);
}

void SpikeDetector::compare_block(const MetricPoint& point, double level, Events& events) {
  const double lowest = *std::min_element(state_.block_levels.begin(), state_.block_levels.end());
  const double rise = level - lowest;
  if (rise <= std::max(options_.shift_sigmas * state_.baseline.sigma, options_.min_shift)) {
    state_.shift_streak = 0;
    return;
  }
  if (state_.shift_streak++ == 0) state_.shift_onset = state_.block_begin;
  if (state_.shift_streak < 2) return;
  const bool costly = rise > suspicious_rise(point.step);
  // Told once; said again only when it has grown enough to act on.
  if (state_.shift_streak > 2 && !costly) return;
  SpikeEvent shift =
      event(point, SpikeVerdict::kLevelShift, costly ? SpikeAction::kRollBack : SpikeAction::kNone,
            fmt::format(
                "the median loss of the last {} samples is {:.4g}, {:.3g} above the {:.4g} it had "
                "been down to, and has been above since step {}",
                options_.shift_block, level, rise, lowest, state_.shift_onset));
  shift.onset = state_.shift_onset;
  shift.baseline = lowest;
  events.push_back(std::move(shift));
  if (costly) forget_blocks();
}

void SpikeDetector::note_context_change(const ContextChange& change) {
  switch (change.kind) {
    case ContextChange::Kind::kLearningRateRamp:
    case ContextChange::Kind::kBatchRamp:
      state_.ramp_until = std::max(state_.ramp_until, change.until_step);
      forget_blocks();
      return;
    case ContextChange::Kind::kMembership:
    case ContextChange::Kind::kResume:
      state_.check_restore = true;
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

bool SpikeDetector::in_baseline_warmup() const {
  return state_.num_samples <= options_.warmup_samples || state_.baseline.losses.size() < 8;
}

double SpikeDetector::suspicious_rise(std::int64_t step) const {
  const SpikeBaselineState& base = state_.baseline;
  const double rise =
      std::max({options_.sigmas * base.sigma, options_.min_relative_rise * std::abs(base.level),
                options_.min_rise});
  return in_ramp(step) ? options_.ramp_tolerance * rise : rise;
}

double SpikeDetector::score(double loss, std::int64_t step) const {
  return options_.sigmas * (loss - state_.baseline.level) / suspicious_rise(step);
}

bool SpikeDetector::back_to_normal(std::int64_t step) const {
  return recent_median(options_.recovery_samples) <=
         state_.baseline.level + options_.release_fraction * suspicious_rise(step);
}

bool SpikeDetector::diverged(double loss) const {
  const double level = state_.baseline.level;
  std::vector<double> first = state_.first_losses;
  const double initial = median_in_place(first);
  return loss >= 2 * level && initial >= 2 * level &&
         loss >= level + options_.divergence_share * (initial - level);
}

double SpikeDetector::recent_median(std::int32_t samples) const {
  const std::size_t n = std::min(state_.recent.size(), static_cast<std::size_t>(samples));
  std::vector<double> newest(state_.recent.end() - static_cast<std::ptrdiff_t>(n),
                             state_.recent.end());
  return median_in_place(newest);
}

SpikeEvent SpikeDetector::event(const MetricPoint& point, SpikeVerdict verdict, SpikeAction action,
                                std::string reason) const {
  SpikeEvent made;
  made.step = point.step;
  made.onset = state_.onset >= 0 ? state_.onset : point.step;
  made.verdict = verdict;
  made.loss = point.missing ? 0 : point.loss;
  made.action = action;
  made.reason = std::move(reason);
  if (in_baseline_warmup()) return made;
  made.baseline = state_.baseline.level;
  made.score = !point.missing && std::isfinite(point.loss) ? score(point.loss, point.step) : 0;
  return made;
}

}  // namespace tenax::scheduler
