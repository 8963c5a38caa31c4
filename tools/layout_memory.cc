#include "tools/layout_memory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>

#include "compute/cuda/tenax_cuda.h"
#include "compute/cuda_stage_memory.h"
#include "compute/layer_cost.h"
#include "compute/optimizer_shards.h"
#include "compute/stage.h"
#include "compute/stage_layout.h"
#include "compute/tensor_part.h"
#include "compute/tree_accumulator.h"
#include "compute/tree_reduce.h"
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
  within("virtual_stages", q.virtual_stages,
         q.pp > 1 ? std::max<std::int64_t>(o.num_layers / q.pp, 1) : 1);
  if (q.zero < 0 || q.zero > 1) found.push_back(fmt::format("zero is {}, must be 0 or 1", q.zero));
  within("microbatch", q.microbatch_size, 1 << 20);
  within("sequence", q.sequence_length, o.max_sequence_length);
  within("microbatches", q.num_microbatches, 1 << 20);
  return found;
}

/// Boundary tensors that an engine keeps for the neighbours of a chunk: on each side that has one,
/// one that arrives and those that leave.
std::int64_t boundary_bytes(const compute::ModelOptions& o, const compute::StageSpec& spec,
                            const compute::BatchShape& shape, int num_outboxes) {
  const std::int64_t sides = (spec.has_embedding ? 0 : 1) + (spec.has_head ? 0 : 1);
  const std::int64_t rows = compute::max_token_rows(
      std::int64_t{shape.microbatch_size} * shape.sequence_length, spec.tensor);
  return sides * (1 + num_outboxes) * static_cast<std::int64_t>(sizeof(float)) * rows * o.width;
}

/// Of AdamW's two moments on the member of `num_members` that holds most.
std::int64_t optimizer_bytes(const compute::ModelOptions& o, const compute::StageSpec& spec,
                             int num_members) {
  const auto layout = compute::lay_out_stage(o, spec);
  const auto shards = compute::shard_optimizer(layout.parameters, num_members);
  std::size_t most = 0;
  for (const auto& pieces : shards.pieces) most = std::max(most, compute::moments_size(pieces));
  return static_cast<std::int64_t>(2 * most * sizeof(float));
}

/// What the others' sums of gradients need while they arrive, on the replica that gets most.
std::int64_t reduction_bytes(std::int64_t gradient_bytes, const LayoutQuestion& q) {
  std::size_t all = 0;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (int replica = 0; replica < q.dp; ++replica) {
    const int begin = replica * q.num_microbatches;
    const auto own = compute::maximal_subtrees({begin, begin + q.num_microbatches}).size();
    all += own;
    least = std::min(least, own);
  }
  const auto wanted = static_cast<std::int64_t>(all - least) * gradient_bytes / q.dp;
  return std::min(wanted,
                  static_cast<std::int64_t>(compute::TreeReduceOptions{}.max_workspace_bytes));
}

/// By the engine that will train. `model` is resolved().
Result<compute::StageMemory> stage_memory(const compute::ModelOptions& model,
                                          const compute::StageSpec& spec,
                                          const compute::BatchShape& shape,
                                          const LayoutQuestion& q) {
  TENAX_TRY(const compute::StageMemory on_cpu,
            compute::plan_stage_memory(model, spec, shape, q.settings));
  if (q.on_gpu) return compute::plan_cuda_memory(model, spec, shape, q.settings);
  return on_cpu;
}

/// Bytes of all ranks of a run.
std::int64_t total_of(const std::vector<RankMemory>& stages, const configs::RunConfig& config) {
  std::int64_t sum = 0;
  for (const RankMemory& r : stages) sum += r.total();
  return sum * config.layout.data_parallel * config.layout.tensor_parallel;
}

const RankMemory& largest_of(const std::vector<RankMemory>& stages) {
  return *std::ranges::max_element(stages, {}, [](const RankMemory& r) { return r.total(); });
}

Status check_room(const std::vector<RankMemory>& stages, const configs::RunConfig& config,
                  const GpuMemory& gpus) {
  const bool on_gpu = config.train.device == configs::ComputeDevice::kCuda;
  if (on_gpu && gpus.bytes == 0) return {};
  const std::int64_t bytes =
      on_gpu ? gpus.bytes
             : static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const std::int64_t all = on_gpu ? bytes * gpus.count : bytes;
  if (total_of(stages, config) <= all && largest_of(stages).total() <= bytes) return {};
  const std::string owner = !on_gpu           ? "the machine's"
                            : gpus.count == 1 ? "the GPU's"
                                              : fmt::format("{} GPUs of", gpus.count);
  return make_error(
      ErrorCode::kInvalidArgument,
      fmt::format("the run needs more memory than {} {:.1f} GB: {}", owner,
                  static_cast<double>(bytes) * 1e-9, describe_memory(stages, config)));
}

}  // namespace

Result<std::vector<RankMemory>> plan_layout_memory(const compute::ModelOptions& options,
                                                   const LayoutQuestion& question) {
  LayoutQuestion q = question;
  if (q.sequence_length == 0) q.sequence_length = static_cast<int>(options.max_sequence_length);
  if (q.num_microbatches == 0) q.num_microbatches = q.pp;
  if (const auto found = question_problems(options, q); !found.empty()) return invalid(found);
  if (const auto found = compute::tensor_problems(options, q.tp); !found.empty())
    return invalid(found);
  const compute::ModelOptions model = compute::resolved(options);
  const compute::BatchShape shape{q.microbatch_size, q.sequence_length};
  const scheduler::Pipeline pipeline{q.pp, q.virtual_stages};
  const int num_buffers = compute::TreeAccumulator::num_buffers({0, q.num_microbatches}) + 1;
  const int num_outboxes = scheduler::num_outboxes(pipeline, q.num_microbatches);
  const int num_stages = q.pp * q.virtual_stages;
  const double head = compute::head_products(model);
  const auto layers = scheduler::split_layers(
      static_cast<int>(model.num_layers), num_stages,
      {0, head / compute::layer_products(model, q.sequence_length)}, q.virtual_stages);
  std::vector<RankMemory> ranks;
  for (int stage = 0; stage < q.pp; ++stage) {
    const auto schedule = scheduler::make_schedule(scheduler::ScheduleKind::kOneForwardOneBackward,
                                                   pipeline, stage, q.num_microbatches);
    RankMemory r;
    std::int64_t gradient = 0;
    for (int chunk = 0; chunk < q.virtual_stages; ++chunk) {
      const int v = chunk * q.pp + stage;
      const auto& range = layers[static_cast<std::size_t>(v)];
      const compute::StageSpec spec{range.first, range.end, v == 0, v == num_stages - 1, {q.tp, 0}};
      TENAX_TRY(const compute::StageMemory m, stage_memory(model, spec, shape, q));
      r.layers.push_back({spec.first_layer, spec.end_layer});
      for (const compute::StageParameter& p : compute::lay_out_stage(model, spec).parameters)
        r.num_parameters += p.size;
      r.weights += m.values;
      r.gradients += num_buffers * m.gradient;
      gradient += m.gradient;
      r.optimizer += optimizer_bytes(model, spec, q.zero > 0 ? q.dp : 1);
      r.activations += scheduler::num_slots(schedule, chunk) * m.slot;
      r.workspace += m.workspace + boundary_bytes(model, spec, shape, num_outboxes);
    }
    r.workspace += reduction_bytes(gradient, q);
    if (q.on_gpu) r.workspace += TENAX_CUDA_WORKSPACE_BYTES;
    ranks.push_back(r);
  }
  return ranks;
}

Result<std::vector<RankMemory>> plan_run_memory(const configs::RunConfig& config,
                                                std::int64_t vocabulary_size,
                                                const GpuMemory& gpus) {
  LayoutQuestion q;
  q.on_gpu = config.train.device == configs::ComputeDevice::kCuda;
  q.dp = static_cast<int>(config.layout.data_parallel);
  q.tp = static_cast<int>(config.layout.tensor_parallel);
  q.pp = static_cast<int>(config.layout.pipeline_parallel);
  q.virtual_stages = q.pp > 1 ? static_cast<int>(config.layout.virtual_stages) : 1;
  q.zero = static_cast<int>(config.layout.zero);
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
  TENAX_RETURN_IF_ERROR(check_room(stages, config, gpus));
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
