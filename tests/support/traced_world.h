// What real engines of a world of threads record of one step.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "actors/engine_setup.h"
#include "common/clock.h"
#include "compute/step_trace.h"
#include "tests/support/grid_model.h"

namespace tenax::test {

/// When a rank's last backward ends, and when its first reduction begins.
struct ReductionTimes {
  Time last_backward{};
  Time first_reduction = Time::max();
  std::size_t num_reductions = 0;

  explicit ReductionTimes(const std::vector<compute::TraceEvent>& events) {
    for (const compute::TraceEvent& e : events) {
      if (e.kind == compute::TraceKind::kBackward) last_backward = std::max(last_backward, e.end);
      if (e.kind != compute::TraceKind::kReduce) continue;
      first_reduction = std::min(first_reduction, e.begin);
      ++num_reductions;
    }
  }
};

/// The events of each rank, in the order in which they ended. Every layer is a bucket of gradients.
inline std::vector<std::vector<compute::TraceEvent>> traces_of(
    WorldOptions o, compute::Overlap overlap = compute::Overlap::kOn) {
  const SystemClock clock;
  o.steps = 1;
  std::vector<std::unique_ptr<compute::StepTrace>> traces;
  for (int r = 0; r < actors::degrees_of(o.config).world_size(); ++r)
    traces.push_back(std::make_unique<compute::StepTrace>(clock, 16384));
  o.change_options = [&, change = o.change_options](compute::EngineOptions& options) {
    if (change) change(options);
    options.bucket_bytes = 0;
    options.overlap = overlap;
    options.trace = traces[static_cast<std::size_t>(options.rank)].get();
  };
  train_world(o);
  std::vector<std::vector<compute::TraceEvent>> events;
  for (const auto& trace : traces)
    events.emplace_back(trace->events().begin(), trace->events().end());
  return events;
}

}  // namespace tenax::test
