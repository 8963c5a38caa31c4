#include "actors/host_gpus.h"

#include <fmt/format.h>

#include <utility>

namespace tenax::actors {

namespace {

Error advised(const Error& cause) {
  Error error = cause.within("train.device = \"cuda\"");
  error.message += "; train.device = \"cpu\" trains on the processor, tenax doctor says more";
  return error;
}

Result<HostGpus> look() {
  HostGpus host;
  TENAX_TRY(host.plugin, compute::CudaPlugin::load(compute::cuda_plugin_candidates()));
  TENAX_TRY(const int count, compute::cuda_device_count(*host.plugin));
  for (int i = 0; i < count; ++i) {
    TENAX_TRY(const tenax_cuda_device_info info, compute::cuda_device_info(*host.plugin, i));
    if (info.major < 8)
      return make_error(ErrorCode::kUnsupported,
                        fmt::format("GPU {}, {}, is older than Ampere (sm_80)", i, info.name));
    host.gpus.push_back(info);
  }
  return host;
}

}  // namespace

Result<HostGpus> find_gpus() {
  auto host = look();
  if (!host) return advised(host.error());
  return host;
}

Result<std::shared_ptr<compute::CudaDevice>> open_gpu(const HostGpus& host, int index) {
  compute::CudaDeviceOptions options;
  options.device = index;
  options.reproducible = true;  // a run's bits do not depend on interruptions
  auto device = compute::CudaDevice::open(host.plugin, options);
  if (!device) return advised(device.error());
  return device;
}

}  // namespace tenax::actors
