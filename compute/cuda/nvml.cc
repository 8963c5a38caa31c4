#include "compute/cuda/nvml.h"

#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

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
constexpr unsigned long long kXidCritical = 0x8;
using EventSet = void*;
struct EventData {
  Handle device;
  unsigned long long type;
  unsigned long long data;  // the Xid
  unsigned gpu_instance;
  unsigned compute_instance;
};

struct Nvml {
  Library library{"libnvidia-ml.so.1"};
  Result (*init)() = nullptr;
  const char* (*error_string)(Result) = nullptr;
  Result (*driver_version)(char*, unsigned) = nullptr;
  Result (*by_bus_id)(const char*, Handle*) = nullptr;
  Result (*ecc_errors)(Handle, int, int, unsigned long long*) = nullptr;
  Result (*pending_pages)(Handle, int*) = nullptr;
  Result (*throttle_reasons)(Handle, unsigned long long*) = nullptr;
  Result (*temperature)(Handle, int, unsigned*) = nullptr;
  Result (*power)(Handle, unsigned*) = nullptr;
  Result (*event_set_create)(EventSet*) = nullptr;
  Result (*register_events)(Handle, unsigned long long, EventSet) = nullptr;
  Result (*event_set_wait)(EventSet, EventData*, unsigned) = nullptr;

  bool load() {
    library.load("nvmlInit_v2", init);
    library.load("nvmlErrorString", error_string);
    library.load("nvmlSystemGetDriverVersion", driver_version);
    library.load("nvmlDeviceGetHandleByPciBusId_v2", by_bus_id);
    library.load("nvmlDeviceGetTotalEccErrors", ecc_errors);
    library.load("nvmlDeviceGetRetiredPagesPendingStatus", pending_pages);
    library.load("nvmlDeviceGetCurrentClocksThrottleReasons", throttle_reasons);
    library.load("nvmlDeviceGetTemperature", temperature);
    library.load("nvmlDeviceGetPowerUsage", power);
    library.load("nvmlEventSetCreate", event_set_create);
    library.load("nvmlDeviceRegisterEvents", register_events);
    library.load("nvmlEventSetWait_v2", event_set_wait);
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

/// NVML opened once in the process, and what each device was asked to tell. Events come only while
/// somebody listens, so it is never closed. Guarded.
class Session {
 public:
  Outcome read(const std::string& bus_id, Health& health) {
    const std::scoped_lock lock(mutex_);
    if (Outcome opened = open(); !opened.ok()) return opened;
    char version[96] = "";
    if (nvml_->driver_version(version, sizeof version) == 0) health.driver = version;
    Handle device = nullptr;
    if (const Result found = nvml_->by_bus_id(bus_id.c_str(), &device); found != 0)
      return {TENAX_CUDA_UNAVAILABLE,
              "NVML does not know the device at " + bus_id + ": " + nvml_->error_string(found)};
    read_device(*nvml_, device, health);
    if (const EventSet events = listen(bus_id, device); events != nullptr) {
      EventData event{};
      while (nvml_->event_set_wait(events, &event, 0) == 0)
        if (event.type == kXidCritical) health.xids.push_back(static_cast<long long>(event.data));
    }
    return {};
  }

 private:
  Outcome open() {
    if (nvml_ != nullptr) return {};
    auto nvml = std::make_unique<Nvml>();
    if (!nvml->load()) return {TENAX_CUDA_UNAVAILABLE, nvml->library.missing()};
    if (const Result result = nvml->init(); result != 0)
      return {TENAX_CUDA_UNAVAILABLE, std::string("nvmlInit: ") + nvml->error_string(result)};
    nvml_ = std::move(nvml);
    return {};
  }

  /// Null where this GPU tells nothing.
  EventSet listen(const std::string& bus_id, Handle device) {
    const auto known = events_.find(bus_id);
    if (known != events_.end()) return known->second;
    EventSet events = nullptr;
    if (nvml_->event_set_create(&events) != 0 ||
        nvml_->register_events(device, kXidCritical, events) != 0)
      events = nullptr;
    return events_.emplace(bus_id, events).first->second;
  }

  std::mutex mutex_;
  std::unique_ptr<Nvml> nvml_;
  std::map<std::string, EventSet> events_;
};

}  // namespace

Outcome read_health(const std::string& bus_id, Health& health) {
  static Session* const session = new Session;  // as long as the process
  return session->read(bus_id, health);
}

std::string health_json(const Health& h) {
  std::string xids;
  for (const long long xid : h.xids) xids += (xids.empty() ? "" : ", ") + std::to_string(xid);
  char text[768];
  std::snprintf(
      text, sizeof text,
      "{\"driver\": \"%s\", \"ecc_uncorrected\": %lld, \"ecc_corrected\": %lld, "
      "\"retired_pages_pending\": %lld, \"temperature\": %lld, \"power_milliwatts\": %lld, "
      "\"throttling\": \"%s\", \"xids\": [%.120s]}",
      h.driver.c_str(), h.ecc_uncorrected, h.ecc_corrected, h.retired_pages_pending, h.temperature,
      h.power_milliwatts, throttle_reasons(h.throttle_mask).c_str(), xids.c_str());
  return text;
}

std::string nvml_text() { return Library("libnvidia-ml.so.1").text(); }

}  // namespace tenax::cuda
