#include "actors/engine_setup.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "compute/layer_cost.h"
#include "scheduler/layout.h"
#include "scheduler/pipeline_schedule.h"

namespace tenax::actors {

namespace {

/// One stage has nobody to interleave with.
scheduler::Pipeline pipeline_of(const configs::RunConfig& config, const Degrees& degrees) {
  return {degrees.pp, degrees.pp > 1 ? static_cast<int>(config.layout.virtual_stages) : 1};
}

/// Of a library as the plugin finds it; 0: it does not.
std::int64_t found_version(const compute::CudaPlugin& plugin, const char* library) {
  std::array<char, 4096> text{};
  if (plugin.describe(text.data(), text.size()) != TENAX_CUDA_OK) return 0;
  const auto json = nlohmann::json::parse(text.data(), nullptr, false);
  if (!json.is_object() || !json.contains(library)) return 0;
  return json[library].value("found", std::int64_t{0});
}

}  // namespace

compute::Engine::Batch batch_of(const configs::RunConfig& config, const Degrees& degrees, int rank,
                                int num_microbatches) {
  compute::Engine::Batch batch;
  batch.num_microbatches = num_microbatches;
  for (int r = 0; r < degrees.dp; ++r) {
    const auto share = scheduler::even_share(num_microbatches, degrees.dp, r);
    batch.ranges.push_back({static_cast<int>(share.begin), static_cast<int>(share.end)});
  }
  const scheduler::Coordinates place = scheduler::coordinates_of(degrees, rank);
  batch.schedule =
      scheduler::make_schedule(config.train.schedule, pipeline_of(config, degrees), place.pp,
                               batch.ranges[static_cast<std::size_t>(place.dp)].size());
  return batch;
}

Status use_batch_of(compute::Engine& engine, const configs::RunConfig& config,
                    const Degrees& degrees, int num_microbatches) {
  if (num_microbatches == engine.options().num_microbatches) return {};
  return engine.set_batch(batch_of(config, degrees, engine.options().rank, num_microbatches));
}

compute::EngineOptions engine_options(const configs::RunConfig& config,
                                      std::int64_t vocabulary_size, const Degrees& degrees,
                                      int rank) {
  compute::EngineOptions o;
  o.model = configs::model_options(config, vocabulary_size);
  const scheduler::Pipeline pipeline = pipeline_of(config, degrees);
  const int num_stages = pipeline.num_stages * pipeline.num_chunks;
  const double layer =
      compute::layer_products(o.model, static_cast<int>(config.train.sequence_length));
  const auto layers =
      scheduler::split_layers(static_cast<int>(o.model.num_layers), num_stages,
                              {0, compute::head_products(o.model) / layer}, pipeline.num_chunks);
  for (int s = 0; s < num_stages; ++s) {
    const auto& range = layers[static_cast<std::size_t>(s)];
    o.stages.push_back({range.first, range.end, s == 0, s == num_stages - 1});
  }
  o.shape = {static_cast<int>(config.train.microbatch_size),
             static_cast<int>(config.train.sequence_length)};
  const scheduler::Coordinates place = scheduler::coordinates_of(degrees, rank);
  o.rank = rank;
  o.stage = place.pp;
  o.replica = place.dp;
  o.world_size = degrees.world_size();
  o.dp_group = scheduler::data_parallel_group(degrees, rank);
  o.pp_group = scheduler::pipeline_group(degrees, rank);
  o.tp_group = scheduler::tensor_parallel_group(degrees, rank);
  o.tensor_rank = place.tp;
  for (int s = 0; s < degrees.pp; ++s) {
    o.tensor_groups.push_back(
        scheduler::tensor_parallel_group(degrees, scheduler::rank_of(degrees, {0, 0, s})));
  }
  for (int r = 0; r < degrees.dp; ++r) {
    o.replicas.push_back(
        scheduler::pipeline_group(degrees, scheduler::rank_of(degrees, {r, 0, 0})));
  }
  compute::Engine::Batch batch =
      batch_of(config, degrees, rank,
               static_cast<int>(config.train.global_batch_size / config.train.microbatch_size));
  o.num_microbatches = batch.num_microbatches;
  o.ranges = std::move(batch.ranges);
  o.schedule = std::move(batch.schedule);
  const int mine = o.ranges[static_cast<std::size_t>(o.replica)].size();
  o.num_outboxes = scheduler::num_outboxes(pipeline, mine);
  o.zero = static_cast<int>(config.layout.zero);
  o.settings.dropout = config.train.dropout;
  o.settings.dropout_seed = static_cast<std::uint64_t>(config.run.seed);
  o.settings.precision = config.train.precision;
  o.settings.recompute = config.train.recompute;
  o.settings.num_threads = static_cast<int>(config.layout.threads_per_worker);
  o.adamw.beta1 = config.optimizer.beta1;
  o.adamw.beta2 = config.optimizer.beta2;
  o.adamw.epsilon = config.optimizer.epsilon;
  o.adamw.weight_decay = config.optimizer.weight_decay;
  for (const std::string& text : config.optimizer.groups) {
    // The configuration was checked.
    if (auto group = compute::parse_parameter_group(text)) o.groups.push_back(*std::move(group));
  }
  return o;
}

compute::MicrobatchRange heldout_share(const compute::EngineOptions& o, int num_microbatches) {
  const auto share =
      scheduler::even_share(num_microbatches, static_cast<int>(o.replicas.size()), o.replica);
  return {static_cast<int>(share.begin), static_cast<int>(share.end)};
}

PipelineSchedule forward_schedule(const compute::EngineOptions& o, int num_microbatches) {
  const int num_stages = static_cast<int>(o.pp_group.size());
  return scheduler::make_forward_schedule(
      {num_stages, static_cast<int>(o.stages.size()) / num_stages}, o.stage,
      heldout_share(o, num_microbatches).size());
}

compute::LrScheduleOptions lr_schedule_of(const configs::RunConfig& config) {
  compute::LrScheduleOptions schedule;
  switch (config.optimizer.decay) {
    case configs::Decay::kConstant:
      schedule.kind = compute::LrScheduleKind::kConstant;
      break;
    case configs::Decay::kLinear:
      schedule.kind = compute::LrScheduleKind::kLinear;
      break;
    case configs::Decay::kCosine:
      schedule.kind = compute::LrScheduleKind::kCosine;
      break;
    case configs::Decay::kInverseSqrt:
      schedule.kind = compute::LrScheduleKind::kInverseSqrt;
      break;
    case configs::Decay::kWsd:
      schedule.kind = compute::LrScheduleKind::kWsd;
      break;
  }
  schedule.peak = config.optimizer.learning_rate;
  schedule.warmup_steps = config.optimizer.warmup_steps;
  schedule.total_steps = config.train.steps;
  if (config.optimizer.decay != configs::Decay::kWsd && config.optimizer.decay_steps > 0) {
    schedule.total_steps = config.optimizer.decay_steps;
  }
  schedule.decay_steps = config.optimizer.decay_steps;
  schedule.end_fraction = config.optimizer.min_learning_rate / config.optimizer.learning_rate;
  return schedule;
}

Degrees degrees_of(const configs::RunConfig& config) {
  return {static_cast<int>(config.layout.data_parallel),
          static_cast<int>(config.layout.tensor_parallel),
          static_cast<int>(config.layout.pipeline_parallel)};
}

std::string arithmetic_of(const configs::RunConfig& config, const compute::CudaDevice* gpu) {
  if (gpu == nullptr) return compute::arithmetic(compute::cpu::best_isa(), config.train.precision);
  return gpu_arithmetic(config, gpu->plugin(), gpu->info());
}

std::string gpu_arithmetic(const configs::RunConfig& config, const compute::CudaPlugin& plugin,
                           const tenax_cuda_device_info& info) {
  return fmt::format(
      "{} products on {} sm_{}{}, driver {}, CUDA {}, cublasLt {}, cuDNN {}, plugin "
      "interface {}",
      compute::to_string(config.train.precision), info.name, info.major, info.minor,
      info.driver_version, info.runtime_version, found_version(plugin, "cublasLt"),
      found_version(plugin, "cudnn"), TENAX_CUDA_ABI_VERSION);
}

Status check_arithmetic(const RunDirectory& directory, const configs::RunConfig& config,
                        const compute::CudaDevice* gpu) {
  TENAX_TRY(const RunIdentity identity, directory.identity());
  const std::string here = arithmetic_of(config, gpu);
  if (identity.arithmetic.empty() || identity.arithmetic == here) return {};
  return make_error(ErrorCode::kUnsupported,
                    fmt::format("this machine computes other bits than the run's: {} here, {} "
                                "there",
                                here, identity.arithmetic));
}

}  // namespace tenax::actors
