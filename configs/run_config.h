// Everything a run is told: the sections of a run recipe (configs/*.toml) with their defaults.
// docs/config.md is made from the same table that binds these members to keys
// (configs/run_config.cc). Plain values, no thread rule.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/clock.h"

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
};

enum class Norm { kLayerNorm, kRmsNorm };
enum class NormPlacement { kPre, kPost };
enum class Positions { kLearned, kRope, kAlibi, kNone };
enum class Activation { kGelu, kGeluTanh, kRelu, kSwiglu, kGeglu };

struct ModelSection {
  std::int64_t width = 128;
  std::int64_t layers = 4;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 0;   ///< 0: as many as heads
  std::int64_t head_dim = 0;   ///< 0: width / heads
  std::int64_t ffn_width = 0;  ///< 0: 4 x width
  Norm norm = Norm::kLayerNorm;
  NormPlacement norm_placement = NormPlacement::kPre;
  Positions positions = Positions::kLearned;
  Activation activation = Activation::kGeluTanh;
  bool biases = true;
  bool parallel_block = false;
  bool embedding_norm = false;
  bool tied_output = true;
  bool qk_norm = false;
  double init_std = 0.02;
};

struct LayoutSection {
  std::int64_t data_parallel = 1;
  std::int64_t tensor_parallel = 1;
  std::int64_t pipeline_parallel = 1;
  std::int64_t context_parallel = 1;
  std::int64_t expert_parallel = 1;
  std::int64_t agents = 1;

  std::int64_t world_size() const {
    return data_parallel * tensor_parallel * pipeline_parallel * context_parallel;
  }
};

enum class ScheduleKind { kOneFOneB, kGpipe };

struct TrainSection {
  std::int64_t steps = 200;
  std::int64_t sequence_length = 128;
  std::int64_t global_batch_size = 16;
  std::int64_t microbatch_size = 2;
  ScheduleKind schedule = ScheduleKind::kOneFOneB;
  std::int64_t eval_interval = 50;
  std::int64_t eval_samples = 32;
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
};

enum class SlotPolicy { kSkip, kWait };

struct CheckpointSection {
  std::int64_t interval = 50;
  std::int64_t keep_last = 3;
  std::int64_t keep_every = 0;
  SlotPolicy policy = SlotPolicy::kSkip;
};

enum class FaultKind { kRandomTokens, kNan };

struct FaultsSection {
  std::int64_t poison_batch = 0;
  std::int64_t poison_num_batches = 8;
  FaultKind poison_kind = FaultKind::kRandomTokens;
};

struct SupervisionSection {
  Duration heartbeat_interval = milliseconds(250);
  Duration heartbeat_timeout = seconds(3);
  Duration supervisor_grace = minutes(10);
  Duration collect_window = milliseconds(30);
  Duration abort_timeout = seconds(2);
  Duration form_timeout = seconds(30);
  Duration hang_timeout = seconds(30);
  std::int64_t restart_intensity = 10;
  Duration restart_period = minutes(5);
  std::int64_t max_generations_without_progress = 5;
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
  ModelSection model;
  LayoutSection layout;
  TrainSection train;
  OptimizerSection optimizer;
  CheckpointSection checkpoint;
  FaultsSection faults;
  SupervisionSection supervision;
  DashboardSection dashboard;
  GenerateSection generate;

  /// Folder of the recipe, absolute; not a key of it.
  std::filesystem::path base_dir;
};

}  // namespace tenax::configs
