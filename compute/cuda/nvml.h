// The health of a GPU from NVML, which comes with the driver and is looked for when it is needed;
// absent is fine. Only reads: nothing here changes a setting.
#pragma once

#include <string>
#include <vector>

#include "compute/cuda/errors.h"

namespace tenax::cuda {

/// What was read; -1 where this GPU or driver does not tell.
struct Health {
  long long ecc_uncorrected = -1;  ///< since the driver was loaded
  long long ecc_corrected = -1;
  long long retired_pages_pending = -1;
  unsigned long long throttle_mask = 0;
  long long temperature = -1;  ///< degrees Celsius
  long long power_milliwatts = -1;
  std::string driver;           ///< version
  std::vector<long long> xids;  ///< critical errors that the driver told since the last reading
};

/// By the device's PCI bus id. UNAVAILABLE with the reason without NVML. The first reading begins
/// to listen for the device's critical errors, as long as the process lives. Any thread.
Outcome read_health(const std::string& bus_id, Health& health);
std::string health_json(const Health& health);
/// What doctor says of the library: its path or why it was not found.
std::string nvml_text();

}  // namespace tenax::cuda
