#include "actors/engine_setup.h"

#include <map>
#include <string>
#include <utility>

#include "checkpoint/tensor_hash.h"
#include "scheduler/layout.h"
#include "scheduler/pipeline_schedule.h"

namespace tenax::actors {

compute::EngineOptions engine_options(const configs::RunConfig& config,
                                      std::int64_t vocabulary_size, const Degrees& degrees,
                                      int rank) {
  compute::EngineOptions o;
  o.model = configs::model_options(config, vocabulary_size);
  const auto layers = scheduler::split_layers(static_cast<int>(o.model.num_layers), degrees.pp);
  for (int s = 0; s < degrees.pp; ++s) {
    const auto& range = layers[static_cast<std::size_t>(s)];
    o.stages.push_back({range.first, range.end, s == 0, s == degrees.pp - 1});
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
  o.num_microbatches =
      static_cast<int>(config.train.global_batch_size / config.train.microbatch_size);
  for (int r = 0; r < degrees.dp; ++r) {
    const auto share = scheduler::even_share(o.num_microbatches, degrees.dp, r);
    o.ranges.push_back({static_cast<int>(share.begin), static_cast<int>(share.end)});
    o.replicas.push_back(
        scheduler::pipeline_group(degrees, scheduler::rank_of(degrees, {r, place.tp, 0})));
  }
  const int mine = o.ranges[static_cast<std::size_t>(o.replica)].size();
  o.schedule = scheduler::make_schedule(config.train.schedule, o.stage, degrees.pp, mine);
  o.num_slots = scheduler::max_slots(config.train.schedule, o.stage, degrees.pp, mine);
  o.settings.dropout = config.train.dropout;
  o.settings.dropout_seed = static_cast<std::uint64_t>(config.run.seed);
  o.settings.precision = config.train.precision;
  o.settings.recompute = config.train.recompute;
  o.settings.num_threads = static_cast<int>(config.layout.threads_per_worker);
  o.adamw.beta1 = config.optimizer.beta1;
  o.adamw.beta2 = config.optimizer.beta2;
  o.adamw.epsilon = config.optimizer.epsilon;
  o.adamw.weight_decay = config.optimizer.weight_decay;
  o.clip_norm = config.optimizer.clip_norm;
  for (const std::string& text : config.optimizer.groups) {
    // The configuration was checked.
    if (auto group = compute::parse_parameter_group(text)) o.groups.push_back(*std::move(group));
  }
  return o;
}

PipelineSchedule forward_schedule(const compute::EngineOptions& o, int num_microbatches) {
  const auto share =
      scheduler::even_share(num_microbatches, static_cast<int>(o.replicas.size()), o.replica);
  return scheduler::make_forward_schedule(o.stage, static_cast<int>(o.stages.size()),
                                          static_cast<int>(share.end - share.begin));
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

bool slot_matches(const checkpoint::SlotReader& slot,
                  const std::vector<checkpoint::TensorShard>& table,
                  const checkpoint::Manifest& manifest) {
  std::map<std::pair<std::string, std::string>, const checkpoint::StoredShard*> stored;
  for (const checkpoint::StoredShard& s : manifest.shards)
    stored[{s.shard.kind, s.shard.name}] = &s;
  for (const checkpoint::TensorShard& shard : table) {
    const auto it = stored.find({shard.kind, shard.name});
    if (it == stored.end() || !(it->second->shard.box == shard.box) ||
        shard.offset + shard.bytes > slot.payload().size()) {
      return false;
    }
    const Hash128 hash = checkpoint::shard_hash(slot.payload().subspan(shard.offset, shard.bytes),
                                                manifest.chunk_bytes);
    if (hash != it->second->hash) return false;
  }
  return slot.still_sealed();
}

}  // namespace tenax::actors
