#include "compute/cuda_plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace tenax::compute {
namespace {

constexpr char kFileName[] = "libtenax_cuda.so";

}  // namespace

Result<std::shared_ptr<const CudaPlugin>> CudaPlugin::load(
    const std::vector<std::string>& candidates) {
  for (const std::string& path : candidates) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) continue;
    void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
      return make_error(ErrorCode::kUnavailable, fmt::format("the CUDA plugin: {}", dlerror()));
    auto plugin = std::make_shared<CudaPlugin>();
    plugin->path = path;
    const auto version = reinterpret_cast<decltype(&::tenax_cuda_abi_version)>(
        dlsym(handle, "tenax_cuda_abi_version"));
    const int found = version == nullptr ? 0 : version();
    if (found != TENAX_CUDA_ABI_VERSION)
      return make_error(ErrorCode::kUnsupported,
                        fmt::format("the CUDA plugin {} has interface version {}, this program "
                                    "needs {}: build both from one source",
                                    path, found, TENAX_CUDA_ABI_VERSION));
    std::vector<std::string> missing;
#define TENAX_LOAD_FUNCTION(name)                                                           \
  plugin->name =                                                                            \
      reinterpret_cast<decltype(&::tenax_cuda_##name)>(dlsym(handle, "tenax_cuda_" #name)); \
  if (plugin->name == nullptr) missing.emplace_back("tenax_cuda_" #name);
    TENAX_CUDA_PLUGIN_FUNCTIONS(TENAX_LOAD_FUNCTION)
#undef TENAX_LOAD_FUNCTION
    if (!missing.empty())
      return make_error(ErrorCode::kUnsupported, fmt::format("the CUDA plugin {} has no {}", path,
                                                             fmt::join(missing, ", ")));
    return std::shared_ptr<const CudaPlugin>(std::move(plugin));
  }
  return make_error(
      ErrorCode::kUnavailable,
      fmt::format("the CUDA plugin was not found (looked at {}); it is built where nvcc of CUDA 13 "
                  "is installed, and TENAX_CUDA_PLUGIN may name it",
                  fmt::join(candidates, ", ")));
}

std::vector<std::string> cuda_plugin_candidates() {
  if (const char* path = std::getenv("TENAX_CUDA_PLUGIN"); path != nullptr && *path != '\0')
    return {path};
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return {kFileName};
  const std::filesystem::path folder = program.parent_path();
  return {(folder / kFileName).string(), (folder.parent_path() / "lib" / kFileName).string()};
}

Result<int> cuda_device_count(const CudaPlugin& plugin) {
  std::int32_t count = 0;
  std::array<char, 512> message{};
  // Apart: the message is there only after the call.
  const tenax_cuda_status status = plugin.device_count(&count, message.data(), message.size());
  TENAX_RETURN_IF_ERROR(cuda_status(status, message.data()));
  if (count == 0)
    return make_error(ErrorCode::kUnavailable,
                      "no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)");
  return count;
}

Result<tenax_cuda_device_info> cuda_device_info(const CudaPlugin& plugin, int device) {
  tenax_cuda_device_info info{};
  std::array<char, 512> message{};
  const tenax_cuda_status status =
      plugin.get_device_info(device, &info, message.data(), message.size());
  TENAX_RETURN_IF_ERROR(cuda_status(status, message.data()));
  return info;
}

Status cuda_status(tenax_cuda_status status, const std::string& message) {
  switch (status) {
    case TENAX_CUDA_OK:
      return {};
    case TENAX_CUDA_OUT_OF_MEMORY:
      return make_error(ErrorCode::kNoSpace, message);
    case TENAX_CUDA_DEVICE_LOST:
      return make_error(ErrorCode::kDeviceLost, message);
    case TENAX_CUDA_UNAVAILABLE:
    case TENAX_CUDA_REMOTE_ERROR:
      return make_error(ErrorCode::kUnavailable, message);
    case TENAX_CUDA_UNSUPPORTED:
      return make_error(ErrorCode::kUnsupported, message);
    case TENAX_CUDA_ABORTED:
      return make_error(ErrorCode::kAborted, message);
    default:
      return make_error(ErrorCode::kInternal, message);
  }
}

}  // namespace tenax::compute
