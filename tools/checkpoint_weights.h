// A checkpoint's weights in one stage that is the whole model.
#pragma once

#include <memory>

#include "checkpoint/manifest.h"
#include "checkpoint/store_view.h"
#include "common/result.h"
#include "compute/model_options.h"
#include "compute/stage.h"

namespace tenax::tools {

/// A stage for evaluation only, with the parameters of the checkpoint and the run's precision, so
/// that it computes what the run did. Errors are those of
/// Stage::create() and of reading; no damaged byte is taken.
Result<std::unique_ptr<compute::Stage>> load_whole_model(const checkpoint::StoreView& store,
                                                         const checkpoint::Manifest& manifest,
                                                         const compute::ModelOptions& model,
                                                         const compute::BatchShape& shape,
                                                         compute::Precision precision);

}  // namespace tenax::tools
