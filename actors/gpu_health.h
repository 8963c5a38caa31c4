// What NVML says of a worker's GPU while it trains: what has become worse since the last look, and
// what belongs beside the fault of a lost device. Absent is fine. Pure but for read_gpu_health().
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compute/cuda_device.h"

namespace tenax::actors {

/// -1: not told.
struct GpuHealth {
  std::int64_t ecc_uncorrected = -1;
  std::int64_t ecc_corrected = -1;
  std::int64_t retired_pages_pending = -1;
  std::string throttling = "none";
  std::vector<std::int64_t> xids;  ///< since the reading before

  bool operator==(const GpuHealth&) const = default;
};

/// Of the plugin's JSON; nothing where it is none.
std::optional<GpuHealth> parse_gpu_health(const std::string& json);
/// Nothing without NVML. Some milliseconds; also in a lost context.
std::optional<GpuHealth> read_gpu_health(const compute::CudaDevice& device);

/// A sentence for each thing that has become worse. A power cap is how large GPUs work and none.
std::vector<std::string> worse(const GpuHealth& before, const GpuHealth& now);

}  // namespace tenax::actors
