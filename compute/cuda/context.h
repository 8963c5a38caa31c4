// What one process holds of one device: streams, scratch memory, the libraries' plans, and the
// first fault. The type behind tenax_cuda_context. One thread at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compute/cuda/attention_plan.h"
#include "compute/cuda/errors.h"
#include "compute/cuda/matmul.h"

namespace tenax::cuda {

/// Work of other ranks that the device may wait for.
struct Watched {
  virtual ~Watched() = default;
  /// Ends it where it has failed. Called by the context's thread, often, while that waits.
  virtual void watch() = 0;
};

}  // namespace tenax::cuda

/// Named as in the C interface.
struct tenax_cuda_context {
  tenax_cuda_context() = default;
  tenax_cuda_context(const tenax_cuda_context&) = delete;
  tenax_cuda_context& operator=(const tenax_cuda_context&) = delete;
  ~tenax_cuda_context();

  /// Opens the device; after an error the object may only be destroyed.
  tenax::cuda::Outcome open(const tenax_cuda_options& options);

  /// Keeps what failed for tenax_cuda_message() and returns its status. DEVICE_LOST stays.
  tenax_cuda_status fail(tenax::cuda::Outcome outcome);
  /// OK, or fail() with what CUDA says about `doing`.
  tenax_cuda_status check(int error, const char* doing);
  /// After kernels were launched: whether they could be, and whether an earlier one has failed.
  tenax_cuda_status check_launch(const char* doing) { return check(cudaGetLastError(), doing); }
  /// True once the device is lost; every call returns DEVICE_LOST then.
  bool lost() const { return lost_; }

  /// cudaStreamSynchronize and cudaEventSynchronize, looking after `watched` meanwhile. CUDA's
  /// error.
  int wait(cudaStream_t work);
  int wait(cudaEvent_t work);

  /// Device memory that the next operation on the stream may use too; grows when more is asked for.
  /// Null after a failure, which is kept.
  void* scratch(std::uint64_t bytes);
  /// The device's copy of a small table of the host, which the next operations on the stream find;
  /// made where there is none of the same bytes, and kept. Null after a failure, which is kept.
  const void* table(const void* bytes, std::size_t size);

  /// cudaMalloc and cudaFree, counted. CUDA's error.
  int allocate(void** memory, std::uint64_t bytes);
  int release(void* memory);
  /// Of what allocate() gave, in bytes: what is held, and the most that was held at once.
  std::uint64_t held_bytes() const { return held_bytes_; }
  std::uint64_t peak_bytes() const { return peak_bytes_; }

  tenax_cuda_options options{};
  cudaStream_t stream = nullptr;
  cudaStream_t read_stream = nullptr;
  cudaEvent_t work_queued = nullptr;
  cudaEvent_t reads_done = nullptr;
  std::uint64_t shared_bytes_per_block = 0;
  std::string message;
  std::unique_ptr<tenax::cuda::MatrixProducts> products;
  std::unique_ptr<tenax::cuda::AttentionPlans> attention;
  std::vector<tenax::cuda::Watched*> watched;

 private:
  template <class Query>
  int wait_watching(Query&& query);

  bool lost_ = false;
  void* scratch_ = nullptr;
  std::uint64_t scratch_bytes_ = 0;
  struct Table {
    std::vector<std::byte> bytes;
    void* on_device = nullptr;
  };
  std::vector<Table> tables_;
  std::map<void*, std::uint64_t> held_;
  std::uint64_t held_bytes_ = 0;
  std::uint64_t peak_bytes_ = 0;
};
