#include "tools/initial_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "checkpoint/shard_writer.h"

namespace tenax::tools {

namespace {

using checkpoint::TensorShard;
using compute::ParameterSpec;

constexpr std::int64_t kBatchElements = 16 << 20;

std::vector<TensorShard> table_of(std::span<const ParameterSpec> specs, const char* kind) {
  std::vector<TensorShard> table;
  for (const ParameterSpec& s : specs) {
    const Box whole{std::vector<std::int64_t>(s.shape.size(), 0), s.shape};
    table.push_back({s.name, kind, checkpoint::DType::kFloat32, s.shape, whole, 0, 0});
  }
  return table;
}

Status check_finite(const ParameterSpec& spec, std::span<const float> values) {
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad == values.end()) return {};
  return make_error(ErrorCode::kInvalidArgument,
                    fmt::format("{}: element {} is {}", spec.name, bad - values.begin(), *bad));
}

/// Writes some parameters and their optimizer state, which is one stretch of zeros for all.
class BatchWriter {
 public:
  BatchWriter(checkpoint::Store& store, checkpoint::Manifest& manifest)
      : store_(store), manifest_(manifest) {}

  Status write(std::span<const ParameterSpec> specs, const WeightSource& source) {
    std::vector<TensorShard> table = table_of(specs, checkpoint::kParameter);
    const std::uint64_t bytes = checkpoint::assign_offsets(table);
    payload_.assign(bytes / sizeof(float) + 1, 0.0f);
    for (std::size_t i = 0; i < specs.size(); ++i) {
      const auto values = std::span(payload_).subspan(table[i].offset / sizeof(float),
                                                      table[i].bytes / sizeof(float));
      TENAX_RETURN_IF_ERROR(source(specs[i], values));
      TENAX_RETURN_IF_ERROR(check_finite(specs[i], values));
    }
    TENAX_RETURN_IF_ERROR(write_table("weights", table));
    std::fill(payload_.begin(), payload_.end(), 0.0f);
    std::vector<TensorShard> moments = table;
    for (TensorShard& s : moments) s.kind = checkpoint::kAdamM;
    for (TensorShard& s : table) s.kind = checkpoint::kAdamV;
    moments.insert(moments.end(), table.begin(), table.end());
    TENAX_RETURN_IF_ERROR(write_table("moments", moments));
    ++batch_;
    return {};
  }

  const std::vector<checkpoint::ShardFile>& files() const { return files_; }

 private:
  Status write_table(const char* what, std::vector<TensorShard> table) {
    checkpoint::ShardWriteRequest request;
    request.staging_dir = store_.staging_dir();
    request.checkpoint_id = manifest_.checkpoint_id;
    request.writer = fmt::format("import.{:05}.{}", batch_, what);
    request.shards = std::move(table);
    request.payload = std::as_bytes(std::span(payload_));
    TENAX_TRY(const checkpoint::ShardFiles written, checkpoint::write_shard(request));
    files_.insert(files_.end(), written.files.begin(), written.files.end());
    return checkpoint::add_to_manifest(written, manifest_);
  }

  checkpoint::Store& store_;
  checkpoint::Manifest& manifest_;
  std::vector<float> payload_;
  std::vector<checkpoint::ShardFile> files_;
  int batch_ = 0;
};

}  // namespace

Status write_initial_checkpoint(checkpoint::Store& store, checkpoint::Manifest manifest,
                                const compute::ModelOptions& model, const WeightSource& source) {
  const std::vector<ParameterSpec> specs = compute::model_parameters(model);
  BatchWriter writer(store, manifest);
  for (std::size_t first = 0; first < specs.size();) {
    std::size_t end = first;
    std::int64_t elements = 0;
    while (end < specs.size() &&
           (end == first || elements + specs[end].num_elements() <= kBatchElements)) {
      elements += specs[end++].num_elements();
    }
    TENAX_RETURN_IF_ERROR(writer.write(std::span(specs).subspan(first, end - first), source));
    first = end;
  }
  return store.commit(manifest, writer.files(), {});
}

}  // namespace tenax::tools
