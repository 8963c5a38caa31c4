// What real engines of a world of threads record of one step.
#pragma once

#include <memory>
#include <vector>

#include "actors/engine_setup.h"
#include "common/clock.h"
#include "compute/step_trace.h"
#include "tests/support/grid_model.h"

namespace tenax::test {

/// The events of each rank, in the order in which they ended. Every layer is a bucket of gradients.
inline std::vector<std::vector<compute::TraceEvent>> traces_of(
    WorldOptions o, compute::Overlap overlap = compute::Overlap::kOn) {
  const SystemClock clock;
  o.steps = 1;
  std::vector<std::unique_ptr<compute::StepTrace>> traces;
  for (int r = 0; r < actors::degrees_of(o.config).world_size(); ++r)
    traces.push_back(std::make_unique<compute::StepTrace>(clock, 16384));
  o.change_options = [&](compute::EngineOptions& options) {
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
