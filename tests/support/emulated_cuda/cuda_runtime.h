// Stands in for CUDA's header where the tests compile the plugin with a host compiler: kernels run
// on this machine, block after block, their threads as fibers that meet at barriers and shuffles.
// What a GPU would leave undefined (a barrier that some threads never reach, a launch beyond the
// limits) ends the program with a message; address sanitizer sees every access. It shows that
// indices, barriers and sums are right, not that a GPU is used well.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define TENAX_EMULATED_DEVICE 1
#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after the other

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}  // NOLINT
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct EmulatedStream;

namespace tenax::emulation {

using Stream = struct ::EmulatedStream*;

/// Runs `thread` once for each thread of the grid, after all that was queued on the stream; one
/// launch at a time in the process.
void launch(Stream stream, dim3 grid, dim3 block, std::size_t shared_bytes,
            const std::function<void()>& thread);
/// Runs what was queued on the stream.
void finish(Stream stream);
/// The running block's dynamic shared memory, filled with NaN at its start.
float* dynamic_shared();
void sync_threads();
std::uint32_t shuffle_xor(std::uint32_t bits, int mask);

/// What kernels do on purpose: a time passes; a store that breaks the context where no memory of
/// the device lies.
void spin(std::uint64_t nanoseconds);
void store(float* to, float value);

/// Makes the next `count` calls of cudaMalloc fail; or every runtime call from now on fail with
/// `error`, as a broken context does (0: no more).
void fail_next_allocations(int count);
void break_context(int error);
/// Bytes of device memory in use.
std::size_t allocated_bytes();
/// Kernels launched since the process began.
std::size_t num_launches();
/// Bytes copied since the process began, to the host's memory from the device's or the other way.
std::size_t copied_bytes(bool to_host);

}  // namespace tenax::emulation

#define TENAX_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::tenax::emulation::launch(stream, grid, block, shared_bytes, [&] { kernel(__VA_ARGS__); })
#define TENAX_DYNAMIC_SHARED(name) float* name = ::tenax::emulation::dynamic_shared()

inline void __syncthreads() { tenax::emulation::sync_threads(); }

template <class T>
T __shfl_xor_sync(unsigned lanes, T value, int mask) {
  static_assert(sizeof(T) == 4);
  if (lanes != 0xFFFFFFFFu) std::abort();
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = tenax::emulation::shuffle_xor(bits, mask);
  std::memcpy(&value, &bits, 4);
  return value;
}

// --- The part of the runtime that the plugin uses. Kernels run when they are launched; a copy
// waits until something on its stream or an event behind it asks for it, as late as a GPU might.

using cudaError_t = int;
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
enum : int { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600 };
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum : unsigned {
  cudaStreamNonBlocking = 1,
  cudaEventDisableTiming = 2,
  cudaHostAllocPortable = 1,
  cudaHostRegisterPortable = 1
};

struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem;
  std::size_t sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetPCIBusId(char* id, int size, int device);
cudaError_t cudaDeviceCanAccessPeer(int* can, int from, int to);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* memory);
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
/// Not ready while the file that TENAX_EMULATED_BUSY names exists: a kernel that waits for a peer.
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
