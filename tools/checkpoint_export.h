// tenax checkpoint export: a checkpoint's weights as safetensors under the names that Hugging
// Face's transformers give them, with a config.json. Streams: memory does not grow with the model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/float_formats.h"
#include "checkpoint/reader.h"
#include "common/result.h"
#include "compute/model_options.h"
#include "tools/hugging_face.h"

namespace tenax::tools {

struct ExportOptions {
  std::filesystem::path folder;  ///< created if need be
  checkpoint::FloatFormat format = checkpoint::FloatFormat::kF32;
  std::uint64_t max_file_bytes = 2'000'000'000;
  std::int64_t end_of_document = 0;  ///< token id for config.json
};

struct ExportSummary {
  NamingScheme scheme = NamingScheme::kTenax;
  std::string reason;  ///< why the names are Tenax's own
  std::size_t num_tensors = 0;
  std::uint64_t bytes = 0;
  std::vector<std::string> files;
};

/// Writes the parameters of a checkpoint of a model of `model`. kAlreadyExists if the folder holds
/// a model; kInvalidArgument if the checkpoint is of another model, or a weight does not fit the
/// format; kDataLoss, kNoSpace, kPermission or kIo from reading and writing. Nothing under its
/// final name is left of a failed export.
Result<ExportSummary> export_weights(const checkpoint::CheckpointReader& reader,
                                     const compute::ModelOptions& model,
                                     const ExportOptions& options);

/// "f32", "bf16" or "f16".
Result<checkpoint::FloatFormat> parse_dtype(std::string_view text);
/// "2GB" (decimal), "512MiB" (binary), "1000000"; at least 1.
Result<std::uint64_t> parse_bytes(std::string_view text);

struct ExportArguments {
  std::filesystem::path run_dir;
  std::int64_t step = -1;
  std::string format = "safetensors";
  std::filesystem::path out;
  std::string dtype = "f32";
  std::string max_shard_size = "2GB";
  bool json = false;
};
/// Returns an ExitCode.
int run_checkpoint_export(const ExportArguments& arguments);

}  // namespace tenax::tools
