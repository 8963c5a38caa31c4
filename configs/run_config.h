// Everything a run is told: the sections of a run recipe (configs/*.toml) with their defaults.
// docs/config.md is made from the same table that binds these members to keys
// (configs/run_config.cc). Plain values, no thread rule.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/hash.h"
#include "common/result.h"
#include "compute/model_options.h"
#include "compute/precision.h"
#include "compute/stage.h"
#include "configs/binder.h"
#include "data/packing.h"
#include "data/poison.h"
#include "scheduler/pipeline_schedule.h"
#include "scheduler/spike_options.h"
#include "scheduler/step_guard.h"

namespace tenax::configs {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

struct RunSection {
  std::string name = "run";
  std::int64_t seed = 1;
  double time_scale = 1.0;
};

enum class TokenizerKind { kBytes, kBpe, kGpt2 };

struct DataSection {
  std::vector<std::string> text;  ///< patterns as written; relative to RunConfig::base_dir
  double heldout_fraction = 0.05;
  TokenizerKind tokenizer = TokenizerKind::kBytes;
  std::int64_t vocabulary_size = 4096;
  std::string gpt2_dir;
  data::Packing packing = data::Packing::kConcatenate;
  std::vector<std::string> blend;  ///< "WEIGHT PATTERN" each; in place of text

  std::size_t num_corpora() const { return blend.empty() ? 1 : blend.size(); }
};

struct LayoutSection {
  std::int64_t data_parallel = 1;
  std::int64_t tensor_parallel = 1;
  std::int64_t pipeline_parallel = 1;
  std::int64_t context_parallel = 1;
  std::int64_t expert_parallel = 1;
  std::int64_t virtual_stages = 1;
  std::int64_t zero = 0;
  std::int64_t agents = 1;
  std::int64_t spares = 0;
  std::int64_t min_workers = 1;
  std::int64_t min_pipeline_parallel = 1;
  std::int64_t threads_per_worker = 1;

  std::int64_t world_size() const {
    return data_parallel * tensor_parallel * pipeline_parallel * context_parallel;
  }
};

/// What workers compute on.
enum class ComputeDevice { kAuto, kCpu, kCuda };

struct TrainSection {
  std::int64_t steps = 200;
  std::int64_t sequence_length = 128;
  std::int64_t global_batch_size = 16;
  std::int64_t microbatch_size = 2;
  std::vector<std::string> batch_ramp;  ///< data::batch_ramp's parts
  scheduler::ScheduleKind schedule = scheduler::ScheduleKind::kOneForwardOneBackward;
  ComputeDevice device = ComputeDevice::kAuto;
  std::int64_t eval_interval = 50;
  std::int64_t eval_samples = 32;
  compute::Precision precision = compute::Precision::kFp32;
  compute::Recompute recompute = compute::Recompute::kNone;
  compute::DropoutRates dropout;
};

enum class Decay { kConstant, kLinear, kCosine, kInverseSqrt, kWsd };

struct OptimizerSection {
  double learning_rate = 1e-3;
  double min_learning_rate = 1e-4;
  std::int64_t warmup_steps = 20;
  Decay decay = Decay::kCosine;
  std::int64_t decay_steps = 0;  ///< 0: train.steps
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;
  std::vector<std::string> groups;  ///< compute::parse_parameter_group each
};

enum class SlotPolicy { kSkip, kWait };
enum class CompressionKind { kNone, kZstd };

struct CheckpointSection {
  std::int64_t interval = 50;
  std::int64_t keep_last = 3;
  std::int64_t keep_every = 0;
  SlotPolicy policy = SlotPolicy::kSkip;
  CompressionKind compression = CompressionKind::kNone;
  std::int64_t writer_threads = 2;
  std::int64_t buddy_copies = 0;
};

/// Faults of a GPU, as its driver knows them.
enum class GpuFault {
  kHang,         ///< a kernel that a timer of its own ends
  kBadStore,     ///< a store far behind an allocation: the context is broken
  kOutOfMemory,  ///< an allocation that no GPU can give
};

struct FaultsSection {
  std::int64_t poison_batch = 0;
  std::int64_t poison_num_batches = 8;
  data::PoisonKind poison_kind = data::PoisonKind::kRandomTokens;
  std::int64_t rank = 0;
  std::int64_t weight_step = 0;
  std::int64_t gradient_step = 0;
  std::int64_t flip_bit = 30;
  std::int64_t nan_step = 0;
  std::int64_t hang_step = 0;
  std::int64_t hang_generations = 1;
  std::int64_t gpu_step = 0;
  GpuFault gpu_kind = GpuFault::kHang;
  double gpu_hang_seconds = 20;
  std::int64_t learning_rate_step = 0;
  std::int64_t learning_rate_num_steps = 1;
  double learning_rate_factor = 30;
};

struct SupervisionSection {
  Duration heartbeat_interval = milliseconds(250);
  Duration heartbeat_timeout = seconds(3);
  Duration supervisor_grace = minutes(10);
  Duration collect_window = milliseconds(30);
  Duration abort_timeout = seconds(2);
  Duration form_timeout = seconds(30);
  Duration hang_timeout = seconds(30);
  double hang_factor = 5;
  Duration hang_slack = milliseconds(500);
  std::int64_t restart_intensity = 10;
  Duration restart_period = minutes(5);
  Duration exclusion_period = minutes(10);
  std::int64_t max_generations_without_progress = 5;
  std::int64_t integrity_interval = 0;
};

struct NetworkSection {
  std::vector<std::string> hosts;
  std::vector<std::string> agent_launcher;
  std::string control_interface = "127.0.0.1";
  std::int64_t control_port = 0;
  std::string data_interface = "127.0.0.1";
};

struct DashboardSection {
  bool enabled = true;
  std::string host = "127.0.0.1";
  std::int64_t port = 0;
};

struct GenerateSection {
  std::int64_t tokens = 200;
  std::string prompt;
  double temperature = 0.8;
};

struct RunConfig {
  RunSection run;
  DataSection data;
  /// What `model` starts from. Empty once the configuration is read: the card's figures are then in
  /// `model`, so that a run keeps them whatever becomes of the card.
  std::string model_card;
  compute::ModelOptions
      model;  ///< vocabulary and sequence length are not read from here: model_options()
  LayoutSection layout;
  TrainSection train;
  OptimizerSection optimizer;
  CheckpointSection checkpoint;
  scheduler::SpikeOptions spikes;
  /// Keys of [spikes] and [optimizer]; its clip_norm and fp16_loss_scaling are not read from here:
  /// guard_options().
  scheduler::GuardOptions guard;
  FaultsSection faults;
  SupervisionSection supervision;
  NetworkSection network;
  DashboardSection dashboard;
  GenerateSection generate;

  /// Folder of the recipe, absolute; data.text and data.gpt2_dir are relative to it. Not a key: it
  /// is neither in the canonical text nor in the digest.
  std::filesystem::path base_dir;
};

/// The table of all keys, bound to the members of `config`, which must outlive it.
Binder bind(RunConfig& config);

/// Reads a recipe, applies `--set` overrides in order and checks everything. All problems come at
/// once, a line each, in one kInvalidArgument: "file:line:column: message", "--set key=value:
/// message" or, where keys contradict each other, "file: message". kNotFound, kPermission or kIo if
/// the file cannot be read.
Result<RunConfig> load_run_config(const std::filesystem::path& path,
                                  const std::vector<std::string>& overrides);
/// The same from text; `name` stands for the file in messages, `base_dir` is its folder.
Result<RunConfig> parse_run_config(std::string_view text, std::string_view name,
                                   const std::vector<std::string>& overrides,
                                   const std::filesystem::path& base_dir = {});

/// All keys, "key = value" a line: what a run directory keeps. parse_run_config() reads it back as
/// the same config.
std::string canonical_text(const RunConfig& config);
Hash128 config_digest(const RunConfig& config);

/// What the engine is to build, for a tokenizer of so many tokens.
compute::ModelOptions model_options(const RunConfig& config, std::int64_t vocabulary_size);

/// The step guard's options, with those that other sections hold.
scheduler::GuardOptions guard_options(const RunConfig& config);

struct KeyChange {
  std::string key;
  std::string before;  ///< as TOML
  std::string after;
};
/// Ascending by key.
struct ConfigDiff {
  std::vector<KeyChange> changeable;  ///< `--resume` may apply these
  std::vector<KeyChange> fixed;       ///< these make it another run
};
ConfigDiff diff(const RunConfig& before, const RunConfig& after);

/// Every key with its default, ascending: `tenax config keys`, --help and docs/config.md.
std::vector<KeyInfo> list_keys();
/// list_keys() as Markdown, a table for each section.
std::string keys_as_markdown();

}  // namespace tenax::configs
