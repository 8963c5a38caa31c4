#include "actors/gpu_health.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace tenax::actors {

std::optional<GpuHealth> parse_gpu_health(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto number = [&](const char* key) {
    return json.contains(key) && json[key].is_number_integer() ? json[key].get<std::int64_t>() : -1;
  };
  GpuHealth health;
  health.ecc_uncorrected = number("ecc_uncorrected");
  health.ecc_corrected = number("ecc_corrected");
  health.retired_pages_pending = number("retired_pages_pending");
  if (json.contains("throttling") && json["throttling"].is_string())
    health.throttling = json["throttling"].get<std::string>();
  if (json.contains("xids") && json["xids"].is_array()) {
    for (const auto& xid : json["xids"])
      if (xid.is_number_integer()) health.xids.push_back(xid.get<std::int64_t>());
  }
  return health;
}

std::optional<GpuHealth> read_gpu_health(const compute::CudaDevice& device) {
  std::array<char, 1024> text{};
  if (device.plugin().health(device.index(), text.data(), text.size()) != TENAX_CUDA_OK)
    return std::nullopt;
  return parse_gpu_health(text.data());
}

std::vector<std::string> worse(const GpuHealth& before, const GpuHealth& now) {
  std::vector<std::string> found;
  for (const std::int64_t xid : now.xids)
    found.push_back(fmt::format("the driver reports Xid {}", xid));
  const auto grown = [&](std::int64_t a, std::int64_t b, std::string_view what) {
    if (b > std::max<std::int64_t>(a, 0)) found.push_back(fmt::format("{} {}", b, what));
  };
  grown(before.ecc_uncorrected, now.ecc_uncorrected,
        "uncorrected memory errors since the driver was loaded");
  grown(before.ecc_corrected, now.ecc_corrected,
        "corrected memory errors since the driver was loaded");
  grown(before.retired_pages_pending, now.retired_pages_pending,
        "pages of memory wait to be retired: the GPU needs a restart");
  for (const std::string_view reason : {"hardware slowdown", "software thermal slowdown",
                                        "hardware thermal slowdown", "hardware power brake"}) {
    if (now.throttling.find(reason) != std::string::npos &&
        before.throttling.find(reason) == std::string::npos)
      found.push_back(fmt::format("its clock is held down: {}", reason));
  }
  return found;
}

}  // namespace tenax::actors
