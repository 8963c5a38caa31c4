#include "compute/cuda/context.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <thread>
#include <utility>

using tenax::cuda::Outcome;

#ifndef TENAX_EMULATED_DEVICE
// errors.cc writes the numbers out.
static_assert(cudaErrorMemoryAllocation == 2 && cudaErrorInsufficientDriver == 35 &&
              cudaErrorNoDevice == 100 && cudaErrorNoKernelImageForDevice == 209 &&
              cudaErrorECCUncorrectable == 214 && cudaErrorNvlinkUncorrectable == 220 &&
              cudaErrorContained == 226 && cudaErrorIllegalAddress == 700 &&
              cudaErrorLaunchOutOfResources == 701 && cudaErrorLaunchTimeout == 702 &&
              cudaErrorContextIsDestroyed == 709 && cudaErrorAssert == 710 &&
              cudaErrorLaunchFailure == 719 && cudaErrorTensorMemoryLeak == 721 &&
              cudaErrorSystemNotReady == 802 && cudaErrorMpsClientTerminated == 810 &&
              cudaErrorUnknown == 999);
#endif

tenax_cuda_context::~tenax_cuda_context() {
  // In a lost context all of this fails, and is as well left undone.
  products.reset();
  attention.reset();
  if (scratch_ != nullptr) static_cast<void>(release(scratch_));
  for (const Table& table : tables_) static_cast<void>(release(table.on_device));
  if (work_queued != nullptr) static_cast<void>(cudaEventDestroy(work_queued));
  if (reads_done != nullptr) static_cast<void>(cudaEventDestroy(reads_done));
  if (read_stream != nullptr) static_cast<void>(cudaStreamDestroy(read_stream));
  if (stream != nullptr) static_cast<void>(cudaStreamDestroy(stream));
}

Outcome tenax_cuda_context::open(const tenax_cuda_options& wanted) {
  options = wanted;
  const auto outcome = [this] { return Outcome{TENAX_CUDA_INTERNAL, message}; };
  const auto step = [&](int error, const char* doing) {
    const tenax_cuda_status status = check(error, doing);
    return Outcome{status, status == TENAX_CUDA_OK ? std::string() : outcome().message};
  };
  cudaDeviceProp properties{};
  for (const Outcome& done :
       {step(cudaSetDevice(options.device), "cudaSetDevice"),
        step(cudaGetDeviceProperties(&properties, options.device), "cudaGetDeviceProperties")})
    if (!done.ok()) return done;
  if (properties.major < 8)
    return {TENAX_CUDA_UNSUPPORTED, std::string(properties.name) + " is older than Ampere (sm_80)"};
  shared_bytes_per_block = properties.sharedMemPerBlockOptin;
  for (const Outcome& done :
       {step(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"),
        step(cudaStreamCreateWithFlags(&read_stream, cudaStreamNonBlocking), "cudaStreamCreate"),
        step(cudaEventCreateWithFlags(&work_queued, cudaEventDisableTiming), "cudaEventCreate"),
        step(cudaEventCreateWithFlags(&reads_done, cudaEventDisableTiming), "cudaEventCreate")})
    if (!done.ok()) return done;
  products = tenax::cuda::make_matrix_products(*this);
  attention = tenax::cuda::make_attention_plans(*this);
  return {};
}

tenax_cuda_status tenax_cuda_context::fail(Outcome outcome) {
  // The first fault is the cause; what follows it is noise.
  if (lost_) return TENAX_CUDA_DEVICE_LOST;
  lost_ = outcome.status == TENAX_CUDA_DEVICE_LOST;
  message = std::move(outcome.message);
  return outcome.status;
}

tenax_cuda_status tenax_cuda_context::check(int error, const char* doing) {
  if (lost_) return TENAX_CUDA_DEVICE_LOST;
  if (error == cudaSuccess) return TENAX_CUDA_OK;
  const auto code = static_cast<cudaError_t>(error);
  // Takes an error that does not stay out of the runtime's memory.
  static_cast<void>(cudaGetLastError());
  return fail(
      {tenax::cuda::status_of_cuda(error),
       tenax::cuda::cuda_message(doing, error, cudaGetErrorName(code), cudaGetErrorString(code))});
}

int tenax_cuda_context::wait(cudaStream_t work) {
  if (watched.empty()) return cudaStreamSynchronize(work);
  return wait_watching([work] { return cudaStreamQuery(work); });
}

int tenax_cuda_context::wait(cudaEvent_t work) {
  if (watched.empty()) return cudaEventSynchronize(work);
  return wait_watching([work] { return cudaEventQuery(work); });
}

template <class Query>
int tenax_cuda_context::wait_watching(Query&& query) {
  constexpr std::chrono::milliseconds kBetween{10};
  auto next = std::chrono::steady_clock::now() + kBetween;
  for (;;) {
    const cudaError_t error = query();
    if (error != cudaErrorNotReady) return error;
    static_cast<void>(cudaGetLastError());  // "not ready" is no launch's failure
    if (std::chrono::steady_clock::now() >= next) {
      for (tenax::cuda::Watched* const each : watched) each->watch();
      next = std::chrono::steady_clock::now() + kBetween;
    }
    std::this_thread::yield();
  }
}

void* tenax_cuda_context::scratch(std::uint64_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_;
  // cudaFree waits for whatever still uses the old one.
  if (check(release(std::exchange(scratch_, nullptr)), "cudaFree") != TENAX_CUDA_OK) return nullptr;
  scratch_bytes_ = 0;
  constexpr std::uint64_t kStep = std::uint64_t{1} << 20;
  const std::uint64_t rounded = (bytes + kStep - 1) / kStep * kStep;
  if (check(allocate(&scratch_, rounded), "cudaMalloc of scratch memory") != TENAX_CUDA_OK) {
    scratch_ = nullptr;
    return nullptr;
  }
  scratch_bytes_ = rounded;
  return scratch_;
}

const void* tenax_cuda_context::table(const void* bytes, std::size_t size) {
  for (const Table& table : tables_)
    if (table.bytes.size() == size && std::memcmp(table.bytes.data(), bytes, size) == 0)
      return table.on_device;
  // Of engines that are gone, most of them.
  constexpr std::size_t kMostTables = 16;
  if (tables_.size() == kMostTables) {
    for (const Table& table : tables_)
      if (check(release(table.on_device), "cudaFree") != TENAX_CUDA_OK) return nullptr;
    tables_.clear();
  }
  const auto* const begin = static_cast<const std::byte*>(bytes);
  Table made{{begin, begin + size}, nullptr};
  if (check(allocate(&made.on_device, size), "cudaMalloc of a table") != TENAX_CUDA_OK)
    return nullptr;
  tables_.push_back(std::move(made));
  const Table& kept = tables_.back();
  return check(cudaMemcpyAsync(kept.on_device, kept.bytes.data(), size, cudaMemcpyDefault, stream),
               "copying a table") == TENAX_CUDA_OK
             ? kept.on_device
             : nullptr;
}

int tenax_cuda_context::allocate(void** memory, std::uint64_t bytes) {
  const cudaError_t error = cudaMalloc(memory, bytes);
  if (error != cudaSuccess) return error;
  held_[*memory] = bytes;
  held_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, held_bytes_);
  return cudaSuccess;
}

int tenax_cuda_context::release(void* memory) {
  if (const auto at = held_.find(memory); at != held_.end()) {
    held_bytes_ -= at->second;
    held_.erase(at);
  }
  return cudaFree(memory);
}
