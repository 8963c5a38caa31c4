// The C interface but for its operations: devices, contexts, memory, copies, plans.
#include <sstream>
#include <utility>

#include "compute/cuda/context.h"

using tenax::cuda::copy_text;
using tenax::cuda::cuda_message;
using tenax::cuda::Outcome;
using tenax::cuda::status_of_cuda;

namespace {

/// For calls without a context.
tenax_cuda_status report(cudaError_t error, const char* doing, char* message, std::size_t size) {
  if (error == cudaSuccess) {
    copy_text("", message, size);
    return TENAX_CUDA_OK;
  }
  static_cast<void>(cudaGetLastError());
  copy_text(cuda_message(doing, error, cudaGetErrorName(error), cudaGetErrorString(error)), message,
            size);
  return status_of_cuda(error);
}

tenax_cuda_status copy_and_wait(tenax_cuda_context* context, void* to, const void* from,
                                uint64_t bytes, const char* doing) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  const tenax_cuda_status queued =
      context->check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, context->stream), doing);
  if (queued != TENAX_CUDA_OK) return queued;
  return context->check(context->wait(context->stream), doing);
}

}  // namespace

extern "C" {

int32_t tenax_cuda_abi_version(void) { return TENAX_CUDA_ABI_VERSION; }

tenax_cuda_status tenax_cuda_device_count(int32_t* count, char* message, size_t size) {
  *count = 0;
  int found = 0;
  const tenax_cuda_status status =
      report(cudaGetDeviceCount(&found), "cudaGetDeviceCount", message, size);
  if (status == TENAX_CUDA_OK) *count = found;
  return status;
}

tenax_cuda_status tenax_cuda_get_device_info(int32_t device, tenax_cuda_device_info* info,
                                             char* message, size_t size) {
  *info = {};
  cudaDeviceProp properties{};
  tenax_cuda_status status = report(cudaGetDeviceProperties(&properties, device),
                                    "cudaGetDeviceProperties", message, size);
  if (status != TENAX_CUDA_OK) return status;
  status = report(cudaDeviceGetPCIBusId(info->bus_id, sizeof info->bus_id, device),
                  "cudaDeviceGetPCIBusId", message, size);
  if (status != TENAX_CUDA_OK) return status;
  copy_text(properties.name, info->name, sizeof info->name);
  info->major = properties.major;
  info->minor = properties.minor;
  info->num_multiprocessors = properties.multiProcessorCount;
  info->memory_bytes = properties.totalGlobalMem;
  info->shared_bytes_per_block = properties.sharedMemPerBlockOptin;
  int driver = 0;
  int runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  info->driver_version = driver;
  info->runtime_version = runtime;
  return TENAX_CUDA_OK;
}

tenax_cuda_status tenax_cuda_peer_access(int32_t from, int32_t to, int32_t* can, char* message,
                                         size_t size) {
  int answer = 0;
  const tenax_cuda_status status =
      report(cudaDeviceCanAccessPeer(&answer, from, to), "cudaDeviceCanAccessPeer", message, size);
  *can = status == TENAX_CUDA_OK ? answer : 0;
  return status;
}

tenax_cuda_status tenax_cuda_plan_attention(const tenax_cuda_attention* call, int32_t backward,
                                            const char* device_json, char* text, size_t size) {
  std::string engines;
  const Outcome planned = tenax::cuda::plan_attention_without_device(
      *call, backward != 0 ? tenax::cuda::Direction::kBackward : tenax::cuda::Direction::kForward,
      device_json, engines);
  copy_text(planned.ok() ? engines : planned.message, text, size);
  return planned.status;
}

tenax_cuda_status tenax_cuda_create(const tenax_cuda_options* options, tenax_cuda_context** context,
                                    char* message, size_t size) {
  *context = nullptr;
  auto made = std::make_unique<tenax_cuda_context>();
  const Outcome opened = made->open(*options);
  copy_text(opened.message, message, size);
  if (opened.ok()) *context = made.release();
  return opened.status;
}

void tenax_cuda_destroy(tenax_cuda_context* context) { delete context; }

const char* tenax_cuda_message(tenax_cuda_context* context) { return context->message.c_str(); }

tenax_cuda_status tenax_cuda_memory_info(tenax_cuda_context* context, uint64_t* free_bytes,
                                         uint64_t* total_bytes) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  std::size_t free = 0;
  std::size_t total = 0;
  const tenax_cuda_status status = context->check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  *free_bytes = free;
  *total_bytes = total;
  return status;
}

tenax_cuda_status tenax_cuda_memory_held(tenax_cuda_context* context, uint64_t* now,
                                         uint64_t* peak) {
  *now = context->held_bytes();
  *peak = context->peak_bytes();
  return TENAX_CUDA_OK;
}

tenax_cuda_status tenax_cuda_synchronize(tenax_cuda_context* context) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(context->wait(context->stream), "waiting for the device");
}

tenax_cuda_status tenax_cuda_plans(tenax_cuda_context* context, char* text, size_t size,
                                   size_t* needed) {
  const std::string plans = context->products->plans() + context->attention->plans();
  if (needed != nullptr) *needed = plans.size() + 1;
  copy_text(plans, text, size);
  return TENAX_CUDA_OK;
}

tenax_cuda_status tenax_cuda_use_plans(tenax_cuda_context* context, const char* text,
                                       int32_t* num_refused) {
  std::istringstream lines(text);
  *num_refused = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    if (!context->products->use_plan(line) && !context->attention->use_plan(line)) ++*num_refused;
  }
  return TENAX_CUDA_OK;
}

tenax_cuda_status tenax_cuda_malloc(tenax_cuda_context* context, uint64_t bytes, void** memory) {
  *memory = nullptr;
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  const int error = context->allocate(memory, bytes);
  if (status_of_cuda(error) != TENAX_CUDA_OUT_OF_MEMORY) return context->check(error, "cudaMalloc");
  static_cast<void>(cudaGetLastError());
  std::size_t free = 0;
  std::size_t total = 0;
  static_cast<void>(cudaMemGetInfo(&free, &total));
  return context->fail(
      {TENAX_CUDA_OUT_OF_MEMORY, tenax::cuda::memory_message("cudaMalloc", bytes, free, total)});
}

tenax_cuda_status tenax_cuda_free(tenax_cuda_context* context, void* memory) {
  // Also in a lost context, where check() keeps to the first fault.
  return context->check(context->release(memory), "cudaFree");
}

tenax_cuda_status tenax_cuda_host_malloc(tenax_cuda_context* context, uint64_t bytes,
                                         void** memory) {
  *memory = nullptr;
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(cudaHostAlloc(memory, bytes, cudaHostAllocPortable), "cudaHostAlloc");
}

tenax_cuda_status tenax_cuda_host_free(tenax_cuda_context* context, void* memory) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(cudaFreeHost(memory), "cudaFreeHost");
}

tenax_cuda_status tenax_cuda_host_register(tenax_cuda_context* context, void* memory,
                                           uint64_t bytes) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(cudaHostRegister(memory, bytes, cudaHostRegisterPortable),
                        "cudaHostRegister");
}

tenax_cuda_status tenax_cuda_host_unregister(tenax_cuda_context* context, void* memory) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(cudaHostUnregister(memory), "cudaHostUnregister");
}

tenax_cuda_status tenax_cuda_fill_zero(tenax_cuda_context* context, void* memory, uint64_t bytes) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(cudaMemsetAsync(memory, 0, bytes, context->stream), "cudaMemset");
}

tenax_cuda_status tenax_cuda_copy(tenax_cuda_context* context, void* to, const void* from,
                                  uint64_t bytes) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, context->stream),
                        "copying on the device");
}

tenax_cuda_status tenax_cuda_to_device(tenax_cuda_context* context, void* to, const void* host,
                                       uint64_t bytes) {
  return copy_and_wait(context, to, host, bytes, "copying to the device");
}

tenax_cuda_status tenax_cuda_to_host(tenax_cuda_context* context, void* host, const void* from,
                                     uint64_t bytes) {
  return copy_and_wait(context, host, from, bytes, "copying to the host");
}

tenax_cuda_status tenax_cuda_begin_read(tenax_cuda_context* context, void* host, const void* from,
                                        uint64_t bytes) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  const char* doing = "copying a snapshot to the host";
  for (const cudaError_t error :
       {cudaEventRecord(context->work_queued, context->stream),
        cudaStreamWaitEvent(context->read_stream, context->work_queued, 0),
        cudaMemcpyAsync(host, from, bytes, cudaMemcpyDefault, context->read_stream),
        cudaEventRecord(context->reads_done, context->read_stream)})
    if (const tenax_cuda_status status = context->check(error, doing); status != TENAX_CUDA_OK)
      return status;
  return TENAX_CUDA_OK;
}

tenax_cuda_status tenax_cuda_order_after_reads(tenax_cuda_context* context) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(cudaStreamWaitEvent(context->stream, context->reads_done, 0),
                        "waiting for a snapshot");
}

tenax_cuda_status tenax_cuda_finish_reads(tenax_cuda_context* context) {
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  return context->check(context->wait(context->reads_done), "waiting for a snapshot");
}

}  // extern "C"
