// What error codes of CUDA, cuBLASLt, cuDNN and NCCL mean for a run: whether the context is lost,
// whether memory is short, or whether something is missing on the machine. The numbers are written
// out here, so that the mapping is tested without CUDA; context.cc, matmul.cc and nccl.cc assert at
// compile time that they are the libraries' own. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "compute/cuda/tenax_cuda.h"

namespace tenax::cuda {

/// A status with its message; empty where all is well.
struct Outcome {
  tenax_cuda_status status = TENAX_CUDA_OK;
  std::string message;

  bool ok() const { return status == TENAX_CUDA_OK; }
};

/// cudaError_t. Whatever leaves the context unusable is DEVICE_LOST.
tenax_cuda_status status_of_cuda(int error);
/// cublasStatus_t, cudnnStatus_t, ncclResult_t.
tenax_cuda_status status_of_cublas(int status);
tenax_cuda_status status_of_cudnn(int status);
tenax_cuda_status status_of_nccl(int result);

/// "cudaMalloc: cudaErrorMemoryAllocation (2): out of memory", with what to do where that is known.
std::string cuda_message(std::string_view doing, int error, std::string_view name,
                         std::string_view text);
/// "... needs 3.0 GiB for activations; of 79.1 GiB on the device 1.2 GiB are free".
std::string memory_message(std::string_view doing, std::uint64_t bytes, std::uint64_t free_bytes,
                           std::uint64_t total_bytes);
/// What an Xid of the driver's log says about whose fault it was; empty for one that is not known.
std::string_view xid_meaning(std::uint64_t xid);
/// The reasons in NVML's bit mask of clock throttling, comma-separated; "none".
std::string throttle_reasons(std::uint64_t mask);

/// Copies as much as fits, null-terminated; nothing if size is 0.
void copy_text(std::string_view text, char* to, std::size_t size);

}  // namespace tenax::cuda
