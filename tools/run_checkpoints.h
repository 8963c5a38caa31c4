// Finding a checkpoint of a run by its step.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/store_view.h"
#include "common/result.h"

namespace tenax::tools {

/// The committed checkpoints, by rising id; manifests that cannot be read are errors of the call.
Result<std::vector<checkpoint::Manifest>> list_checkpoints(const checkpoint::StoreView& store);

/// The checkpoint of `step` (the newest id, if branches share the step), or the newest of all for
/// -1. kNotFound lists what there is.
Result<checkpoint::Manifest> find_checkpoint(const checkpoint::StoreView& store, std::int64_t step);

}  // namespace tenax::tools
