#include "compute/cuda/nvml.h"

#include <cstdio>

#include "compute/cuda/library.h"

namespace tenax::cuda {
namespace {

// NVML's interface is stable and its header belongs to the driver; what is used of it is declared
// here.
using Result = int;
using Handle = void*;
constexpr int kTemperatureGpu = 0;
constexpr int kMemoryErrorCorrected = 0;
constexpr int kMemoryErrorUncorrected = 1;
constexpr int kEccSinceBoot = 0;

struct Nvml {
  Library library{"libnvidia-ml.so.1"};
  Result (*init)() = nullptr;
  Result (*shutdown)() = nullptr;
  const char* (*error_string)(Result) = nullptr;
  Result (*driver_version)(char*, unsigned) = nullptr;
  Result (*by_bus_id)(const char*, Handle*) = nullptr;
  Result (*ecc_errors)(Handle, int, int, unsigned long long*) = nullptr;
  Result (*pending_pages)(Handle, int*) = nullptr;
  Result (*throttle_reasons)(Handle, unsigned long long*) = nullptr;
  Result (*temperature)(Handle, int, unsigned*) = nullptr;
  Result (*power)(Handle, unsigned*) = nullptr;

  bool load() {
    library.load("nvmlInit_v2", init);
    library.load("nvmlShutdown", shutdown);
    library.load("nvmlErrorString", error_string);
    library.load("nvmlSystemGetDriverVersion", driver_version);
    library.load("nvmlDeviceGetHandleByPciBusId_v2", by_bus_id);
    library.load("nvmlDeviceGetTotalEccErrors", ecc_errors);
    library.load("nvmlDeviceGetRetiredPagesPendingStatus", pending_pages);
    library.load("nvmlDeviceGetCurrentClocksThrottleReasons", throttle_reasons);
    library.load("nvmlDeviceGetTemperature", temperature);
    library.load("nvmlDeviceGetPowerUsage", power);
    return library.missing().empty();
  }
};

void read_device(const Nvml& nvml, Handle device, Health& health) {
  unsigned long long count = 0;
  if (nvml.ecc_errors(device, kMemoryErrorUncorrected, kEccSinceBoot, &count) == 0)
    health.ecc_uncorrected = static_cast<long long>(count);
  if (nvml.ecc_errors(device, kMemoryErrorCorrected, kEccSinceBoot, &count) == 0)
    health.ecc_corrected = static_cast<long long>(count);
  int pending = 0;
  if (nvml.pending_pages(device, &pending) == 0) health.retired_pages_pending = pending;
  static_cast<void>(nvml.throttle_reasons(device, &health.throttle_mask));
  unsigned value = 0;
  if (nvml.temperature(device, kTemperatureGpu, &value) == 0) health.temperature = value;
  if (nvml.power(device, &value) == 0) health.power_milliwatts = value;
}

}  // namespace

Outcome read_health(const std::string& bus_id, Health& health) {
  Nvml nvml;
  if (!nvml.load()) return {TENAX_CUDA_UNAVAILABLE, nvml.library.missing()};
  if (const Result result = nvml.init(); result != 0)
    return {TENAX_CUDA_UNAVAILABLE, std::string("nvmlInit: ") + nvml.error_string(result)};
  char version[96] = "";
  if (nvml.driver_version(version, sizeof version) == 0) health.driver = version;
  Handle device = nullptr;
  const Result found = nvml.by_bus_id(bus_id.c_str(), &device);
  if (found == 0) read_device(nvml, device, health);
  Outcome outcome;
  if (found != 0)
    outcome = {TENAX_CUDA_UNAVAILABLE,
               "NVML does not know the device at " + bus_id + ": " + nvml.error_string(found)};
  static_cast<void>(nvml.shutdown());
  return outcome;
}

std::string health_json(const Health& h) {
  char text[512];
  std::snprintf(
      text, sizeof text,
      "{\"driver\": \"%s\", \"ecc_uncorrected\": %lld, \"ecc_corrected\": %lld, "
      "\"retired_pages_pending\": %lld, \"temperature\": %lld, \"power_milliwatts\": %lld, "
      "\"throttling\": \"%s\"}",
      h.driver.c_str(), h.ecc_uncorrected, h.ecc_corrected, h.retired_pages_pending, h.temperature,
      h.power_milliwatts, throttle_reasons(h.throttle_mask).c_str());
  return text;
}

std::string nvml_text() { return Library("libnvidia-ml.so.1").text(); }

}  // namespace tenax::cuda
