// Batch-size ramps: smaller global batches for the first steps (Brown et al., "Language models are
// few-shot learners", arXiv:2005.14165, appendix B). Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "data/position_map.h"

namespace tenax::data {

/// `parts` are "50 x 4", so many steps of so many samples each, one after the other; then every
/// step has `final_size`. kInvalidArgument with the part that is none.
Result<std::vector<BatchSizeChange>> batch_ramp(const std::vector<std::string>& parts,
                                                std::int64_t final_size);

}  // namespace tenax::data
