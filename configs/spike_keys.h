// Keys of section [spikes], apart from the others because they are many.
#pragma once

#include "configs/binder.h"
#include "scheduler/spike_options.h"

namespace tenax::configs {

void bind_spikes(Binder& b, scheduler::SpikeOptions& c);

}  // namespace tenax::configs
