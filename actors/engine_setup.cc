#include "actors/engine_setup.h"

#include "scheduler/layout.h"
#include "scheduler/pipeline_schedule.h"

namespace tenax::actors {

compute::EngineOptions engine_options(const configs::RunConfig& config,
                                      std::int64_t vocabulary_size, const Degrees& degrees,
                                      int rank) {
  compute::EngineOptions o;
  o.model = configs::model_options(config, vocabulary_size);
  // One stage has nobody to interleave with.
  const scheduler::Pipeline pipeline{
      degrees.pp, degrees.pp > 1 ? static_cast<int>(config.layout.virtual_stages) : 1};
  const int num_stages = pipeline.num_stages * pipeline.num_chunks;
  const auto layers = scheduler::split_layers(static_cast<int>(o.model.num_layers), num_stages);
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
  o.num_microbatches =
      static_cast<int>(config.train.global_batch_size / config.train.microbatch_size);
  for (int r = 0; r < degrees.dp; ++r) {
    const auto share = scheduler::even_share(o.num_microbatches, degrees.dp, r);
    o.ranges.push_back({static_cast<int>(share.begin), static_cast<int>(share.end)});
    o.replicas.push_back(
        scheduler::pipeline_group(degrees, scheduler::rank_of(degrees, {r, 0, 0})));
  }
  const int mine = o.ranges[static_cast<std::size_t>(o.replica)].size();
  o.schedule = scheduler::make_schedule(config.train.schedule, pipeline, o.stage, mine);
  o.num_outboxes = scheduler::num_outboxes(pipeline, mine);
  o.zero = static_cast<int>(config.layout.zero);
  o.adamw.beta1 = config.optimizer.beta1;
  o.adamw.beta2 = config.optimizer.beta2;
  o.adamw.epsilon = config.optimizer.epsilon;
  o.adamw.weight_decay = config.optimizer.weight_decay;
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

}  // namespace tenax::actors
