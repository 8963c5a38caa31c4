// Writes the checkpoint that a run with weights from elsewhere begins with: the parameters as
// given, the optimizer state zero, step 0. Memory is bounded by the largest tensor (or 64 MiB).
#pragma once

#include <functional>
#include <span>
#include <string>

#include "checkpoint/manifest.h"
#include "checkpoint/store.h"
#include "common/result.h"
#include "compute/model_options.h"
#include "compute/parameters.h"

namespace tenax::tools {

/// Fills `values` (zeros so far) with all of one parameter.
using WeightSource =
    std::function<Status(const compute::ParameterSpec& spec, std::span<float> values)>;

/// Writes the shards into the store's staging folder and commits them. `manifest` says everything
/// but the shards; its checkpoint_id must be 1 and step 0. kInvalidArgument, naming the tensor, for
/// a value that is not finite (S1); errors of `source` and of the store otherwise.
Status write_initial_checkpoint(checkpoint::Store& store, checkpoint::Manifest manifest,
                                const compute::ModelOptions& model, const WeightSource& source);

}  // namespace tenax::tools
