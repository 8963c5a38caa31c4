// The health of a device: see nvml.h.
#include <cuda_runtime.h>

#include "compute/cuda/errors.h"
#include "compute/cuda/nvml.h"

using tenax::cuda::copy_text;

extern "C" {

tenax_cuda_status tenax_cuda_health(int32_t device, char* json, size_t size) {
  char bus_id[32] = "";
  if (const cudaError_t error = cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device);
      error != cudaSuccess) {
    copy_text(tenax::cuda::cuda_message("cudaDeviceGetPCIBusId", error, cudaGetErrorName(error),
                                        cudaGetErrorString(error)),
              json, size);
    return tenax::cuda::status_of_cuda(error);
  }
  tenax::cuda::Health health;
  const tenax::cuda::Outcome read = tenax::cuda::read_health(bus_id, health);
  copy_text(read.ok() ? tenax::cuda::health_json(health) : read.message, json, size);
  return read.status;
}

}  // extern "C"
