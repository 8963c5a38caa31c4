// What each pipeline stage's ranks hold in memory when a model is trained in a layout, by the plans
// of compute/ and without allocating anything. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "compute/model_options.h"
#include "compute/stage.h"
#include "configs/run_config.h"

namespace tenax::tools {

struct LayoutQuestion {
  int dp = 1;
  int tp = 1;
  int pp = 1;
  int virtual_stages = 1;   ///< chunks of layers that each pipeline rank holds
  int zero = 0;             ///< ZeRO stage: 1 shards the optimizer state over dp
  int microbatch_size = 1;  ///< B
  int sequence_length = 0;  ///< T; 0: the model's longest
  int num_microbatches =
      0;  ///< of each replica in a step; 0: pp, the fewest that fill the pipeline
  compute::StageSettings settings = {};
  bool on_gpu = false;  ///< the plan of the CUDA engine, with the workspace of its plugin
};

/// The GPUs that the workers of a run share.
struct GpuMemory {
  std::int64_t bytes = 0;  ///< of each; 0: unknown
  int count = 1;
};

/// Bytes of one rank.
struct RankMemory {
  struct Layers {
    int first = 0;
    int end = 0;
  };
  std::vector<Layers> layers;  ///< of each chunk
  std::int64_t num_parameters = 0;
  std::int64_t weights = 0;
  std::int64_t gradients = 0;  ///< the buffers of the fixed tree and the reduced sums
  std::int64_t optimizer = 0;  ///< AdamW's two moments; with ZeRO those of the largest share
  std::int64_t activations = 0;
  std::int64_t workspace = 0;  ///< of the kernels, boundary tensors and gradients on their way
  std::int64_t total() const { return weights + gradients + optimizer + activations + workspace; }
};

/// By stage, for 1F1B; every rank of a stage holds the same. kInvalidArgument with every problem.
Result<std::vector<RankMemory>> plan_layout_memory(const compute::ModelOptions& options,
                                                   const LayoutQuestion& question);

/// What the ranks of a run will hold, before they are started: kInvalidArgument, with the sums, if
/// that is more than the machine has, since all of them run on it. With train.device = "cuda" it is
/// device memory, held against `gpus`.
Result<std::vector<RankMemory>> plan_run_memory(const configs::RunConfig& config,
                                                std::int64_t vocabulary_size,
                                                const GpuMemory& gpus = {});

/// "12.3 MB on rank 0 (weights 4.0, gradients ...), 48.0 MB on 4 ranks": the rank that holds most.
std::string describe_memory(const std::vector<RankMemory>& stages,
                            const configs::RunConfig& config);

}  // namespace tenax::tools
