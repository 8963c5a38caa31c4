// Synthetic metric series for the spike tests: a decaying loss with seeded noise, and what happens
// to it.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "common/counter_rng.h"
#include "scheduler/spike_detector.h"

namespace tenax::scheduler {

/// Step i (from 1 on) has the loss 2 + 2 exp(-i / 500) + 0.02 x noise and the gradient norm exp(0.2
/// x noise).
inline MetricPoint healthy_point(std::int64_t step, std::uint64_t seed = 7) {
  const auto element = static_cast<std::uint64_t>(step);
  MetricPoint point;
  point.step = step;
  point.loss = 2 + 2 * std::exp(-static_cast<double>(step) / 500) +
               0.02 * static_cast<double>(CounterRng(seed, 0).normal(element));
  point.grad_norm = std::exp(0.2 * static_cast<double>(CounterRng(seed, 1).normal(element)));
  return point;
}

using Change = std::function<void(MetricPoint&)>;

/// Steps 1..num_steps, each changed by `change`.
inline std::vector<MetricPoint> series(std::int64_t num_steps, const Change& change = {},
                                       std::uint64_t seed = 7) {
  std::vector<MetricPoint> points;
  for (std::int64_t step = 1; step <= num_steps; ++step) {
    points.push_back(healthy_point(step, seed));
    if (change) change(points.back());
  }
  return points;
}

/// Adds `rise` to the losses of steps [first, last].
inline Change raised(std::int64_t first, std::int64_t last, double rise) {
  return [=](MetricPoint& point) {
    if (point.step >= first && point.step <= last) point.loss += rise;
  };
}

inline std::vector<SpikeEvent> observe_all(SpikeDetector& detector,
                                           const std::vector<MetricPoint>& points) {
  std::vector<SpikeEvent> events;
  for (const MetricPoint& point : points)
    for (SpikeEvent& event : detector.observe(point)) events.push_back(std::move(event));
  return events;
}

inline std::vector<SpikeEvent> events_of(const std::vector<MetricPoint>& points,
                                         const SpikeOptions& options = {}) {
  SpikeDetector detector(options);
  return observe_all(detector, points);
}

inline std::vector<SpikeVerdict> verdicts(const std::vector<SpikeEvent>& events) {
  std::vector<SpikeVerdict> out;
  for (const SpikeEvent& event : events) out.push_back(event.verdict);
  return out;
}

}  // namespace tenax::scheduler
