// Keys of section [spikes], apart from the others because they are many.
#pragma once

#include "configs/binder.h"
#include "scheduler/spike_options.h"
#include "scheduler/step_guard.h"

namespace tenax::configs {

void bind_spikes(Binder& b, scheduler::SpikeOptions& c);
/// Of the step guard: in the sections [spikes] and [optimizer].
void bind_guard(Binder& b, scheduler::GuardOptions& c);

}  // namespace tenax::configs
