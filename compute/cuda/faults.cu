// Faults on purpose: what tests make in a process of their own, which does not survive them.
#include "compute/cuda/device_code.h"
#include "compute/cuda/kernels.h"

namespace tenax::cuda {
namespace {

/// Spins until the GPU's clock has gone on by `nanoseconds`; ends by itself.
__global__ void spin_kernel(std::uint64_t nanoseconds) {
#ifdef TENAX_EMULATED_DEVICE
  emulation::spin(nanoseconds);
#elif defined(__CUDA_ARCH__)
  std::uint64_t begin = 0;
  std::uint64_t now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
#else
  static_cast<void>(nanoseconds);
#endif
}

__global__ void bad_store_kernel(float* end) {
#ifdef TENAX_EMULATED_DEVICE
  emulation::store(end, 1.0f);
#else
  *end = 1.0f;
#endif
}

}  // namespace

void launch_spin(double seconds, Stream stream) {
  const auto kernel = spin_kernel;
  TENAX_LAUNCH(kernel, 1, 1, 0, stream, static_cast<std::uint64_t>(seconds * 1e9));
}

void launch_bad_store(float* end, Stream stream) {
  const auto kernel = bad_store_kernel;
  TENAX_LAUNCH(kernel, 1, 1, 0, stream, end);
}

}  // namespace tenax::cuda
