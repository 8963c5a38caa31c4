// What a rank's train loop has to do with its GPU as a device: opening it, the connections to other
// ranks' GPUs, its health, and what is said of it when it fails. A part of TrainLoop.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>

#include "actors/engine_setup.h"
#include "actors/gpu_trouble.h"
#include "actors/host_gpus.h"
#include "actors/train_loop.h"

namespace tenax::actors {

namespace {

constexpr Duration kHealthInterval = std::chrono::seconds(30);

}  // namespace

Status TrainLoop::prepare_device() {
  if (config_.train.device == configs::ComputeDevice::kCuda && !gpu_) {
    TENAX_TRY(const HostGpus host, find_gpus());
    std::vector<std::string> bus_ids;
    for (const tenax_cuda_device_info& info : host.gpus) bus_ids.emplace_back(info.bus_id);
    if (!gpu_claim_) {
      TENAX_TRY(gpu_claim_,
                GpuClaim::take(options_.run_id, bus_ids, static_cast<int>(options_.slot)));
    }
    TENAX_TRY(gpu_, open_gpu(host, gpu_claim_->index()));
  }
  TENAX_RETURN_IF_ERROR(check_arithmetic(options_.directory, config_, gpu_.get()));
  if (!gpu_) return {};
  TENAX_TRY(const RunIdentity identity, options_.directory.identity());
  gpu_->expect(identity.planned_device_bytes);
  if (gpu_plans_) return {};
  gpu_plans_.emplace(options_.directory.gpu_plans(),
                     fmt::format("a{}.{}", options_.agent, options_.slot),
                     arithmetic_of(config_, gpu_.get()));
  return gpu_->use_plans(gpu_plans_->take());
}

Status TrainLoop::connect_gpus(const Plan& plan, compute::Communicator& comm,
                               GenerationLink& link) {
  if (!gpu_ || comm.world_size() < 2) return {};
  compute::NcclOptions options;
  options.rank = comm.rank();
  options.world_size = comm.world_size();
  options.form_timeout = scaled(config_.supervision.form_timeout);
  options.key_prefix = fmt::format("generation{}", plan.generation);
  const compute::EngineOptions& engine = engine_->options();
  const compute::PipelinePlace place{engine.pp_group, engine.stage,
                                     engine.stages.size() > engine.pp_group.size()};
  TENAX_TRY(gpus_, actors::connect_gpus(gpu_, comm, options, place, link, link.stop_token()));
  if (!gpus_.peers && comm.rank() == 0 && gpus_.why_staged != staged_)
    spdlog::warn("what ranks exchange goes through the hosts' memory, which is slower: {}",
                 gpus_.why_staged);
  staged_ = gpus_.why_staged;
  return engine_->use(gpus_.peers.get(), gpus_.neighbours.links);
}

void TrainLoop::watch_gpu() {
  if (!gpu_) return;
  const Time now = clock_.now();
  if (health_ && now - health_read_ < kHealthInterval) return;
  health_read_ = now;
  const auto read = read_gpu_health(*gpu_);
  if (!read) return;
  for (const std::string& what : worse(health_.value_or(GpuHealth{}), *read))
    tell_trouble(engine_->options().rank, DeviceTrouble::kHealth,
                 fmt::format("GPU {} ({}): {}", gpu_->index(), gpu_->info().name, what), false);
  health_ = read;
}

bool TrainLoop::tell_failure(int rank, const Error& seen, bool aborted) {
  // What the device keeps to itself is the cause of whatever else was seen.
  const Status kept = gpu_ ? gpu_->kept() : Status();
  const Error& error = kept ? seen : kept.error();
  const std::optional<DeviceTrouble> trouble = trouble_of(error);
  // After an abort transfers fail because they were told to.
  if (!trouble || (aborted && *trouble == DeviceTrouble::kCommunication)) return false;
  std::string text = error.message;
  if (gpu_) {
    if (const auto read = read_gpu_health(*gpu_)) {
      for (const std::string& what : worse(health_.value_or(GpuHealth{}), *read))
        text += "; " + what;
      health_ = read;
    }
  }
  const bool ends = !kept || *trouble == DeviceTrouble::kFault;
  tell_trouble(rank, *trouble, std::move(text), ends);
  return ends;
}

void TrainLoop::tell_trouble(int rank, DeviceTrouble trouble, std::string text, bool ends) {
  spdlog::warn("{}", text);
  send_(wire::DeviceReport{rank, trouble, std::move(text), ends});
}

Status TrainLoop::keep_plans() {
  if (!gpu_plans_) return {};
  const Status kept = gpu_plans_->keep(gpu_->plans());
  if (kept || kept.error().code == ErrorCode::kUnsupported) return kept;
  spdlog::warn("the GPU's algorithms are not written down: {}", kept.error().message);
  return {};
}

}  // namespace tenax::actors
