// Keys of section [faults].
#pragma once

#include "configs/binder.h"
#include "configs/run_config.h"

namespace tenax::configs {

/// Binds every key of the section to the members of `c`, which must outlive the binder.
void bind_faults(Binder& b, FaultsSection& c);

}  // namespace tenax::configs
