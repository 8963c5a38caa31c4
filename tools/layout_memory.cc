#include "tools/layout_memory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "compute/parameters.h"
#include "compute/stage.h"
#include "compute/tree_accumulator.h"
#include "scheduler/layout.h"
#include "scheduler/pipeline_schedule.h"

namespace tenax::tools {

namespace {

constexpr int kMaxDegree = 1 << 16;

Error invalid(const std::vector<std::string>& found) {
  return make_error(ErrorCode::kInvalidArgument, fmt::format("layout: {}", fmt::join(found, "; ")));
}

std::vector<std::string> question_problems(const compute::ModelOptions& o,
                                           const LayoutQuestion& q) {
  std::vector<std::string> found;
  const auto within = [&](std::string_view name, std::int64_t value, std::int64_t most) {
    if (value < 1 || value > most)
      found.push_back(fmt::format("{} is {}, must be between 1 and {}", name, value, most));
  };
  within("dp", q.dp, kMaxDegree);
  within("tp", q.tp, kMaxDegree);
  within("pp", q.pp, o.num_layers);
  within("microbatch", q.microbatch_size, 1 << 20);
  within("sequence", q.sequence_length, o.max_sequence_length);
  within("microbatches", q.num_microbatches, 1 << 20);
  return found;
}

/// Boundary tensors that an engine keeps for its neighbours: one that arrives and two that leave,
/// on each side that has a neighbour.
std::int64_t boundary_bytes(const compute::ModelOptions& o, const compute::StageSpec& spec,
                            const compute::BatchShape& shape) {
  const std::int64_t sides = (spec.has_embedding ? 0 : 1) + (spec.has_head ? 0 : 1);
  return sides * 3 * static_cast<std::int64_t>(sizeof(float)) * shape.microbatch_size *
         shape.sequence_length * o.width;
}

/// Bytes of all ranks of a run.
std::int64_t total_of(const std::vector<RankMemory>& stages, const configs::RunConfig& config) {
  std::int64_t sum = 0;
  for (const RankMemory& r : stages) sum += r.total();
  return sum * config.layout.data_parallel * config.layout.tensor_parallel;
}

}  // namespace

Result<compute::ModelOptions> tensor_parallel_part(const compute::ModelOptions& options, int tp) {
  compute::ModelOptions o = compute::resolved(options);
  if (tp == 1) return o;
  std::vector<std::string> found;
  const auto divide = [&](std::string_view name, std::int64_t& value) {
    if (value % tp != 0)
      found.push_back(fmt::format("{} {} is not a multiple of tp {}", name, value, tp));
    value /= tp;
  };
  divide("heads", o.num_heads);
  divide("ffn_width", o.ffn_width);
  if (o.num_kv_heads < tp && tp % o.num_kv_heads == 0) {
    o.num_kv_heads = 1;
  } else {
    divide("kv_heads", o.num_kv_heads);
  }
  o.padded_vocabulary_size = (o.padded_vocabulary_size + tp - 1) / tp;
  o.vocabulary_size = o.padded_vocabulary_size;
  if (!found.empty()) return invalid(found);
  return o;
}

Result<std::vector<RankMemory>> plan_layout_memory(const compute::ModelOptions& options,
                                                   const LayoutQuestion& question) {
  LayoutQuestion q = question;
  if (q.sequence_length == 0) q.sequence_length = static_cast<int>(options.max_sequence_length);
  if (q.num_microbatches == 0) q.num_microbatches = q.pp;
  if (const auto found = question_problems(options, q); !found.empty()) return invalid(found);
  TENAX_TRY(const compute::ModelOptions part, tensor_parallel_part(options, q.tp));

  const compute::BatchShape shape{q.microbatch_size, q.sequence_length};
  const auto kind = scheduler::ScheduleKind::kOneForwardOneBackward;
  const int num_buffers = compute::TreeAccumulator::num_buffers({0, q.num_microbatches}) + 1;
  const auto layers = scheduler::split_layers(static_cast<int>(part.num_layers), q.pp);
  std::vector<RankMemory> ranks;
  for (int stage = 0; stage < q.pp; ++stage) {
    const auto& range = layers[static_cast<std::size_t>(stage)];
    const compute::StageSpec spec{range.first, range.end, stage == 0, stage == q.pp - 1};
    TENAX_TRY(const compute::StageMemory m,
              compute::plan_stage_memory(part, spec, shape, q.settings));
    RankMemory r;
    r.first_layer = spec.first_layer;
    r.end_layer = spec.end_layer;
    for (const compute::ParameterSpec& p : compute::stage_parameters(
             part, spec.first_layer, spec.end_layer, spec.has_embedding, spec.has_head)) {
      r.num_parameters += p.num_elements();
    }
    r.weights = m.values;
    r.gradients = num_buffers * m.gradient;
    r.optimizer = 2 * m.values;
    r.activations = scheduler::max_slots(kind, stage, q.pp, q.num_microbatches) * m.slot;
    r.workspace = m.workspace + boundary_bytes(part, spec, shape);
    ranks.push_back(r);
  }
  return ranks;
}

Result<std::vector<RankMemory>> plan_run_memory(const configs::RunConfig& config,
                                                std::int64_t vocabulary_size) {
  LayoutQuestion q;
  q.dp = static_cast<int>(config.layout.data_parallel);
  q.tp = static_cast<int>(config.layout.tensor_parallel);
  q.pp = static_cast<int>(config.layout.pipeline_parallel);
  q.microbatch_size = static_cast<int>(config.train.microbatch_size);
  q.sequence_length = static_cast<int>(config.train.sequence_length);
  const std::int64_t microbatches = config.train.global_batch_size / config.train.microbatch_size;
  q.num_microbatches =
      static_cast<int>(std::max<std::int64_t>(1, (microbatches + q.dp - 1) / q.dp));
  q.settings.recompute = config.train.recompute;
  q.settings.precision = config.train.precision;
  q.settings.dropout = config.train.dropout;
  q.settings.num_threads = static_cast<int>(config.layout.threads_per_worker);
  TENAX_TRY(auto stages, plan_layout_memory(configs::model_options(config, vocabulary_size), q));
  const auto machine = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  if (total_of(stages, config) > machine) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("the run needs more memory than the machine's {:.1f} GB: {}",
                    static_cast<double>(machine) * 1e-9, describe_memory(stages, config)));
  }
  return stages;
}

std::string describe_memory(const std::vector<RankMemory>& stages,
                            const configs::RunConfig& config) {
  const auto most =
      std::ranges::max_element(stages, {}, [](const RankMemory& r) { return r.total(); });
  const auto mb = [](std::int64_t bytes) { return static_cast<double>(bytes) * 1e-6; };
  return fmt::format(
      "{:.1f} MB on a rank of stage {} (weights {:.1f}, gradients {:.1f}, optimizer {:.1f}, "
      "activations {:.1f}, workspace {:.1f}), {:.1f} MB on all {}",
      mb(most->total()), most - stages.begin(), mb(most->weights), mb(most->gradients),
      mb(most->optimizer), mb(most->activations), mb(most->workspace), mb(total_of(stages, config)),
      config.layout.world_size());
}

}  // namespace tenax::tools
