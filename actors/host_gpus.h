// The GPUs of this host, as its driver shows them: looked at without opening any, which would take
// some of its memory for as long as the process lives; and the one that is opened. Values.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "compute/cuda_device.h"
#include "compute/cuda_plugin.h"

namespace tenax::actors {

struct HostGpus {
  std::shared_ptr<const compute::CudaPlugin> plugin;
  std::vector<tenax_cuda_device_info>
      gpus;  ///< at least one; those that CUDA_VISIBLE_DEVICES shows
};

/// kUnavailable or kUnsupported with what is missing and what to do.
Result<HostGpus> find_gpus();
/// GPU `index` of them, the same errors.
Result<std::shared_ptr<compute::CudaDevice>> open_gpu(const HostGpus& host, int index);

}  // namespace tenax::actors
