#include "compute/stage.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <new>

#include "common/check.h"
#include "compute/cpu/cpu_stage.h"
#include "compute/cpu/stage_memory.h"
#include "compute/cuda_stage.h"
#include "compute/stage_layout.h"

namespace tenax::compute {
namespace {

std::int64_t machine_memory_bytes() {
  return static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

Status check_arguments(const ModelOptions& options, const StageSpec& spec, const BatchShape& shape,
                       const StageSettings& settings) {
  std::vector<std::string> found = stage_problems(options, spec, shape);
  if (!cpu::is_available(settings.isa))
    found.push_back(
        fmt::format("this processor does not run the {} kernels", cpu::to_string(settings.isa)));
  if (settings.num_threads < 1)
    found.push_back(fmt::format("num_threads is {}, must be at least 1", settings.num_threads));
  const auto rate = [&](std::string_view name, double value) {
    if (!(value >= 0 && value < 1))
      found.push_back(fmt::format("dropout {} is {}, must be at least 0 and below 1", name, value));
  };
  rate("embedding", settings.dropout.embedding);
  rate("attention", settings.dropout.attention);
  rate("residual", settings.dropout.residual);
  if (!found.empty())
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("model stage: {}", fmt::join(found, "; ")));
  return {};
}

}  // namespace

void check_positions(std::span<const std::int32_t> positions, const BatchShape& shape) {
  if (positions.empty()) return;
  const auto length = static_cast<std::size_t>(shape.sequence_length);
  TENAX_CHECK(positions.size() == static_cast<std::size_t>(shape.microbatch_size) * length);
  for (std::size_t i = 0; i < positions.size(); ++i)
    TENAX_CHECK(positions[i] == 0 || (i % length != 0 && positions[i] == positions[i - 1] + 1));
}

StageSpec whole_model(const ModelOptions& options) {
  return {0, static_cast<int>(options.num_layers), true, true};
}

Result<StageMemory> plan_stage_memory(const ModelOptions& options, const StageSpec& spec,
                                      const BatchShape& shape, const StageSettings& settings) {
  TENAX_RETURN_IF_ERROR(check_arguments(options, spec, shape, settings));
  if (settings.cuda) return plan_cuda_memory(resolved(options), spec, shape, settings);
  return cpu::plan_memory(resolved(options), spec, shape, settings);
}

Result<std::unique_ptr<Stage>> Stage::create(const ModelOptions& options, const StageSpec& spec,
                                             const BatchShape& shape, int num_slots,
                                             const StageSettings& settings) {
  TENAX_TRY(const StageMemory memory, plan_stage_memory(options, spec, shape, settings));
  if (num_slots < 0)
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("model stage: num_slots is {}, must not be negative", num_slots));
  if (settings.cuda)
    return CudaStage::create(settings.cuda, options, spec, shape, num_slots, settings);
  const std::int64_t wanted = memory.total(num_slots) - memory.gradient;
  if (wanted > machine_memory_bytes())
    return make_error(ErrorCode::kNoSpace,
                      fmt::format("model stage: it takes {} bytes, the machine has {}", wanted,
                                  machine_memory_bytes()));
  try {
    return std::unique_ptr<Stage>(
        std::make_unique<cpu::CpuStage>(options, spec, shape, num_slots, settings));
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoSpace,
                      fmt::format("model stage: {} bytes of memory are not available", wanted));
  }
}

}  // namespace tenax::compute
