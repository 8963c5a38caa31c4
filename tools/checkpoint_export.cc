#include "tools/checkpoint_export.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "actors/run_directory.h"
#include "checkpoint/safetensors_reader.h"
#include "checkpoint/safetensors_writer.h"
#include "configs/run_config.h"
#include "scheduler/exit_code.h"
#include "tools/command_errors.h"
#include "tools/prepare_data.h"
#include "tools/run_checkpoints.h"

namespace tenax::tools {

namespace {

using checkpoint::CheckpointReader;
using checkpoint::FloatFormat;
using checkpoint::SafetensorsModel;
using checkpoint::SafetensorsWriter;

/// The checkpoint must be of the model that gives the tensors their names.
Status check_shapes(const CheckpointReader& reader, const ForeignModel& model) {
  for (const ForeignTensor& tensor : model.tensors) {
    for (const compute::ParameterSpec& part : tensor.parts) {
      TENAX_TRY(const checkpoint::TensorInfo info,
                reader.tensor(checkpoint::kParameter, part.name));
      if (info.shape == part.shape) continue;
      return make_error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} has shape [{}] in the checkpoint and [{}] in the run's configuration",
                      part.name, fmt::join(info.shape, ", "), fmt::join(part.shape, ", ")));
    }
  }
  return {};
}

Status prepare_folder(const std::filesystem::path& folder) {
  std::error_code ec;
  std::filesystem::create_directories(folder, ec);
  if (ec) {
    return make_error(ErrorCode::kPermission,
                      fmt::format("create {}: {}", folder.string(), ec.message()));
  }
  for (const char* name : {SafetensorsModel::kFileName, SafetensorsModel::kIndexName}) {
    if (!std::filesystem::exists(folder / name, ec)) continue;
    return make_error(ErrorCode::kAlreadyExists,
                      fmt::format("{} already holds a model ({})", folder.string(), name));
  }
  return {};
}

Status write_tensor(const CheckpointReader& reader, const ForeignTensor& tensor,
                    SafetensorsWriter& writer) {
  const ReadBox read = [&](const std::string& name, const Box& box, std::span<float> out) {
    return reader.read_box(checkpoint::kParameter, name, box, out);
  };
  std::vector<float> rows;
  const std::int64_t step = rows_at_once(tensor);
  for (std::int64_t first = 0; first < tensor.rows(); first += step) {
    const std::int64_t count = std::min(step, tensor.rows() - first);
    rows.resize(static_cast<std::size_t>(count * tensor.columns()));
    TENAX_RETURN_IF_ERROR(read_rows(tensor, first, count, read, rows));
    TENAX_RETURN_IF_ERROR(writer.append(rows));
  }
  return {};
}

}  // namespace

Result<ExportSummary> export_weights(const CheckpointReader& reader,
                                     const compute::ModelOptions& model,
                                     const ExportOptions& options) {
  const ForeignModel foreign = foreign_model(model);
  TENAX_RETURN_IF_ERROR(check_shapes(reader, foreign));
  TENAX_RETURN_IF_ERROR(prepare_folder(options.folder));
  std::vector<checkpoint::OutgoingTensor> tensors;
  for (const ForeignTensor& t : foreign.tensors) tensors.push_back({t.name, t.shape});
  checkpoint::SafetensorsWriteOptions how;
  how.format = options.format;
  how.max_file_bytes = options.max_file_bytes;
  how.metadata["tenax_run"] = reader.manifest().run_id;
  how.metadata["tenax_step"] = fmt::format("{}", reader.manifest().step);
  TENAX_TRY(auto writer,
            SafetensorsWriter::create(options.folder.string(), std::move(tensors), how));
  for (const ForeignTensor& t : foreign.tensors) {
    TENAX_RETURN_IF_ERROR(write_tensor(reader, t, writer));
  }
  TENAX_RETURN_IF_ERROR(writer.finish());
  ExportSummary summary{foreign.scheme, foreign.reason, foreign.tensors.size(), writer.data_bytes(),
                        writer.paths()};
  if (foreign.scheme != NamingScheme::kTenax) {
    const auto path = options.folder / "config.json";
    TENAX_RETURN_IF_ERROR(actors::write_file(
        path, transformers_config(model, foreign.scheme, options.end_of_document), 0644));
    summary.files.push_back(path.string());
  }
  return summary;
}

Result<FloatFormat> parse_dtype(std::string_view text) {
  if (text == "f32") return FloatFormat::kF32;
  if (text == "bf16") return FloatFormat::kBf16;
  if (text == "f16") return FloatFormat::kF16;
  return make_error(ErrorCode::kInvalidArgument,
                    fmt::format("--dtype {}: there are f32, bf16 and f16", text));
}

Result<std::uint64_t> parse_bytes(std::string_view text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const auto& [name, factor] : kUnits) {
    const double bytes = number * factor;
    if (error != std::errc() || unit != name || !(bytes >= 1 && bytes < 0x1p62)) continue;
    return static_cast<std::uint64_t>(bytes);
  }
  return make_error(ErrorCode::kInvalidArgument,
                    fmt::format("'{}' is no size; write it as 2GB, 512MiB or 1000000", text));
}

namespace {

Result<ExportSummary> export_run(const ExportArguments& arguments) {
  if (arguments.format != "safetensors") {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("--format {}: there is safetensors", arguments.format));
  }
  ExportOptions options;
  options.folder = arguments.out;
  TENAX_TRY(options.format, parse_dtype(arguments.dtype));
  TENAX_TRY(options.max_file_bytes, parse_bytes(arguments.max_shard_size));
  const actors::RunDirectory directory(arguments.run_dir);
  TENAX_TRY(const PinnedCheckpoint pinned, open_checkpoint(arguments.run_dir, arguments.step));
  TENAX_TRY(const configs::RunConfig config, configs::load_run_config(directory.config(), {}));
  TENAX_TRY(const auto tokenizer, open_tokenizer(config, directory));
  options.end_of_document = tokenizer->end_of_document();
  const CheckpointReader reader(*pinned.store, pinned.manifest);
  return export_weights(reader, configs::model_options(config, tokenizer->vocabulary_size()),
                        options);
}

}  // namespace

int run_checkpoint_export(const ExportArguments& arguments) {
  const auto summary = export_run(arguments);
  if (!summary) return report_error(summary.error());
  if (arguments.json) {
    const nlohmann::json j = {{"names", to_string(summary->scheme)},
                              {"reason", summary->reason},
                              {"tensors", summary->num_tensors},
                              {"bytes", summary->bytes},
                              {"files", summary->files}};
    fmt::print("{}\n", j.dump());
    return 0;
  }
  fmt::print("{} tensors, {:.1f} MB, under the names of {}{}\n", summary->num_tensors,
             static_cast<double>(summary->bytes) * 1e-6, to_string(summary->scheme),
             summary->reason.empty() ? "" : fmt::format(" (the model has {})", summary->reason));
  for (const std::string& file : summary->files) fmt::print("  {}\n", file);
  return 0;
}

}  // namespace tenax::tools
