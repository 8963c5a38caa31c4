#include "tools/checkpoint_import.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "actors/run_directory.h"
#include "actors/supervisor.h"
#include "checkpoint/store.h"
#include "common/clock.h"
#include "configs/run_config.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_json.h"
#include "tools/command_errors.h"
#include "tools/prepare_data.h"
#include "tools/run_checkpoints.h"

namespace tenax::tools {

namespace {

namespace fs = std::filesystem;
using checkpoint::SafetensorsModel;
using compute::ModelOptions;

constexpr std::uint64_t kImportedId = 1;  // below every id of generation 1

/// Where one of our tensors comes from.
struct Origin {
  ForeignTensor tensor;
  std::size_t part = 0;
  std::string name;  ///< in the files: the scheme's, or without its first word
};

/// transformers save a bare model without the prefix of the one with a head.
std::string name_in(const SafetensorsModel& files, const std::string& name) {
  if (files.find(name) != nullptr) return name;
  const std::string bare = name.substr(name.find('.') + 1);
  return files.find(bare) != nullptr ? bare : std::string();
}

bool shape_fits(const ForeignTensor& tensor, std::vector<std::int64_t> there) {
  if (there == tensor.shape) return true;
  if (there.size() != tensor.shape.size() || there.empty()) return false;
  const std::string& ours = tensor.parts[0].name;
  const bool longer_table = ours == "embedding.position.weight" && there[0] > tensor.shape[0];
  const bool padded = there[0] == tensor.parts[0].shape[0];
  if (!longer_table && !padded) return false;
  there[0] = tensor.shape[0];
  return there == tensor.shape;
}

/// Buffers that old files carry, and what a tied model does not need twice.
bool is_ignorable(const std::string& name, const ModelOptions& model) {
  for (const char* end : {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"}) {
    if (name.ends_with(end)) return true;
  }
  return model.tied_output && name == "lm_head.weight";
}

Result<std::map<std::string, Origin>> find_origins(const SafetensorsModel& files,
                                                   const ModelOptions& model) {
  std::map<std::string, Origin> origins;
  std::set<std::string> used;
  std::string wrong;
  for (const ForeignTensor& tensor : foreign_model(model).tensors) {
    const std::string name = name_in(files, tensor.name);
    if (name.empty()) {
      wrong += fmt::format("\n  {} is missing", tensor.name);
      continue;
    }
    used.insert(name);
    const auto& shape = files.find(name)->shape;
    if (!shape_fits(tensor, shape)) {
      wrong += fmt::format("\n  {} has shape [{}], the recipe's model needs [{}]", name,
                           fmt::join(shape, ", "), fmt::join(tensor.shape, ", "));
    }
    for (std::size_t part = 0; part < tensor.parts.size(); ++part) {
      origins.insert_or_assign(tensor.parts[part].name, Origin{tensor, part, name});
    }
  }
  for (const std::string& name : files.names()) {
    if (used.contains(name) || is_ignorable(name, model)) continue;
    wrong += fmt::format("\n  {} has no place in the recipe's model", name);
  }
  if (wrong.empty()) return origins;
  return make_error(ErrorCode::kInvalidArgument,
                    "the files do not hold the weights of the recipe's model:" + wrong);
}

Status read_part(const SafetensorsModel& files, const Origin& from, std::span<float> values) {
  std::vector<float> rows;
  const std::int64_t step = rows_at_once(from.tensor);
  const std::int64_t width = from.tensor.columns();
  for (std::int64_t first = 0; first < from.tensor.rows(); first += step) {
    const std::int64_t count = std::min(step, from.tensor.rows() - first);
    rows.resize(static_cast<std::size_t>(count * width));
    TENAX_RETURN_IF_ERROR(files.read(from.name, first * width, rows));
    place_rows(from.tensor, from.part, first, count, rows, values);
  }
  return {};
}

/// A model whose output is tied may come with a copy of the embedding, but not with another matrix.
Status check_tied(const SafetensorsModel& files, const Origin& embedding) {
  const auto* head = files.find("lm_head.weight");
  if (head == nullptr) return {};
  const auto differ = make_error(
      ErrorCode::kInvalidArgument,
      "lm_head.weight differs from the embedding, but the recipe's model has a tied output");
  if (head->shape != files.find(embedding.name)->shape) return differ;
  constexpr std::int64_t kPiece = 1 << 20;
  std::vector<float> a;
  std::vector<float> b;
  for (std::int64_t at = 0; at < head->num_elements(); at += kPiece) {
    const auto count = static_cast<std::size_t>(std::min(kPiece, head->num_elements() - at));
    a.resize(count);
    b.resize(count);
    TENAX_RETURN_IF_ERROR(files.read("lm_head.weight", at, a));
    TENAX_RETURN_IF_ERROR(files.read(embedding.name, at, b));
    if (a != b) return differ;
  }
  return {};
}

Status check_config_json(const fs::path& from, const ModelOptions& model) {
  const fs::path path = (fs::is_directory(from) ? from : from.parent_path()) / "config.json";
  std::error_code ec;
  if (!fs::exists(path, ec)) return {};
  TENAX_TRY(const std::string text, actors::read_file(path));
  TENAX_TRY(const auto wrong, contradictions(model, foreign_model(model).scheme, text));
  if (wrong.empty()) return {};
  return make_error(
      ErrorCode::kInvalidArgument,
      fmt::format("{} is of another model:\n  {}", path.string(), fmt::join(wrong, "\n  ")));
}

/// Removes what was written unless the import came to its end.
class UnfinishedRun {
 public:
  explicit UnfinishedRun(fs::path path) : path_(std::move(path)) {}
  UnfinishedRun(const UnfinishedRun&) = delete;
  UnfinishedRun& operator=(const UnfinishedRun&) = delete;
  ~UnfinishedRun() {
    std::error_code ec;
    fs::remove_all(path_, ec);
  }

 private:
  fs::path path_;
};

checkpoint::Manifest manifest_of(const std::string& run_id, const configs::RunConfig& config,
                                 const PreparedData& data, Time now) {
  checkpoint::Manifest m;
  m.checkpoint_id = kImportedId;
  m.run_id = run_id;
  m.parents = {{0, 0, 0}};
  m.config_digest = configs::config_digest(config);
  m.data_digest = data.digest;
  m.layout = "imported";
  m.created = now;
  return m;
}

/// Lets the run controller know its checkpoint; the decision is the run's first journal entry.
Status record_import(checkpoint::Store& store, const configs::RunConfig& config,
                     const std::string& source, std::uint64_t bytes, Time now) {
  const scheduler::RunController controller(actors::controller_options(config));
  scheduler::RunState state;
  scheduler::JournalEntry entry;
  entry.seq = 1;
  entry.time = now;
  entry.term = 1;
  entry.event = scheduler::CheckpointImported{kImportedId, bytes, source};
  entry.commands = controller.decide(state, entry.event, now);
  const checkpoint::JournalRecord record{entry.seq, scheduler::to_json(entry)};
  return store.append_journal(std::span(&record, 1), scheduler::to_json(state));
}

Status check_read_back(const checkpoint::Store& store) {
  TENAX_TRY(const auto report, store.verify(kImportedId, checkpoint::VerifyDepth::kFull));
  if (report.ok()) return {};
  return make_error(ErrorCode::kDataLoss,
                    "the written checkpoint cannot be read back: " + report.problems.front());
}

Result<std::uint64_t> fill_store(const actors::RunDirectory& directory, const std::string& run_id,
                                 const configs::RunConfig& config, const PreparedData& data,
                                 const ImportArguments& arguments) {
  TENAX_TRY(const SafetensorsModel files, SafetensorsModel::open(arguments.from.string()));
  const ModelOptions model = configs::model_options(config, data.vocabulary_size);
  TENAX_RETURN_IF_ERROR(check_config_json(arguments.from, model));
  TENAX_TRY(const WeightSource source, weights_from(files, model));
  const Time now = SystemClock().now();
  checkpoint::StoreOptions options;
  options.holder = this_process(1, now);
  TENAX_TRY(const auto store, checkpoint::Store::open(directory.path().string(), options));
  TENAX_RETURN_IF_ERROR(
      write_initial_checkpoint(*store, manifest_of(run_id, config, data, now), model, source));
  TENAX_RETURN_IF_ERROR(check_read_back(*store));
  TENAX_TRY(const checkpoint::Manifest written, store->manifest(kImportedId));
  const std::uint64_t bytes = checkpoint::total_bytes(written);
  TENAX_RETURN_IF_ERROR(record_import(*store, config, arguments.from.string(), bytes, now));
  return bytes;
}

Result<std::uint64_t> import_run(const ImportArguments& arguments) {
  TENAX_TRY(const configs::RunConfig config,
            configs::load_run_config(arguments.config, arguments.overrides));
  const fs::path target = fs::absolute(arguments.run_dir).lexically_normal();
  std::error_code ec;
  if (fs::exists(target, ec) && !fs::is_empty(target, ec)) {
    return make_error(ErrorCode::kAlreadyExists,
                      fmt::format("{} exists; choose another --run-dir", target.string()));
  }
  fs::path building = target;
  building += fmt::format(".importing.{}", ::getpid());
  const UnfinishedRun unfinished(building);
  const actors::RunDirectory directory(building);
  TENAX_TRY(const actors::RunIdentity identity, directory.create(config.run.name));
  TENAX_TRY(const PreparedData data, prepare_data(config, directory));
  TENAX_RETURN_IF_ERROR(
      actors::write_file(directory.config(), configs::canonical_text(config), 0644));
  TENAX_TRY(const std::uint64_t bytes, fill_store(directory, identity.id, config, data, arguments));
  fs::rename(building, target, ec);
  if (ec) {
    return make_error(ErrorCode::kIo, fmt::format("rename {} to {}: {}", building.string(),
                                                  target.string(), ec.message()));
  }
  return bytes;
}

}  // namespace

Result<WeightSource> weights_from(const SafetensorsModel& files, const ModelOptions& model) {
  TENAX_TRY(auto found, find_origins(files, model));
  auto origins = std::make_shared<const std::map<std::string, Origin>>(std::move(found));
  if (model.tied_output) {
    TENAX_RETURN_IF_ERROR(check_tied(files, origins->at(compute::kTokenEmbedding)));
  }
  return WeightSource(
      [&files, origins](const compute::ParameterSpec& spec, std::span<float> values) {
        return read_part(files, origins->at(spec.name), values);
      });
}

int run_checkpoint_import(const ImportArguments& arguments) {
  const auto bytes = import_run(arguments);
  if (!bytes) return report_error(bytes.error());
  if (arguments.json) {
    fmt::print("{}\n", nlohmann::json{{"checkpoint_id", kImportedId},
                                      {"bytes", *bytes},
                                      {"run_dir", arguments.run_dir.string()}}
                           .dump());
    return 0;
  }
  fmt::print(
      "imported {:.1f} MB of weights and empty optimizer state; to train\n"
      "  tenax train --resume --run-dir {}\n",
      static_cast<double>(*bytes) * 1e-6, arguments.run_dir.string());
  return 0;
}

}  // namespace tenax::tools
