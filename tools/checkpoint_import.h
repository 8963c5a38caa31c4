// tenax checkpoint import: a new run whose initial weights come from safetensors files with the
// names of Hugging Face's transformers, or Tenax's own. The other direction is checkpoint_export.h.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors_reader.h"
#include "common/result.h"
#include "compute/model_options.h"
#include "tools/hugging_face.h"
#include "tools/initial_checkpoint.h"

namespace tenax::tools {

/// Weights of `model` out of opened files. kInvalidArgument, listing all of it, where tensors are
/// missing, have other shapes, or are not part of the model. A longer table of learned positions
/// is cut. `files` must outlive the result.
Result<WeightSource> weights_from(const checkpoint::SafetensorsModel& files,
                                  const compute::ModelOptions& model);

struct ImportArguments {
  std::filesystem::path from;  ///< a .safetensors file, or a folder as transformers keep it
  std::filesystem::path config;
  std::vector<std::string> overrides;
  std::filesystem::path run_dir;  ///< appears complete or not at all
  bool json = false;
};
/// Returns an ExitCode.
int run_checkpoint_import(const ImportArguments& arguments);

}  // namespace tenax::tools
