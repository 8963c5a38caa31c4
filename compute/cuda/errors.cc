#include "compute/cuda/errors.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

namespace tenax::cuda {
namespace {

std::string gibibytes(std::uint64_t bytes) {
  char text[32];
  if (bytes < (std::uint64_t{1} << 30))
    std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / 0x1p20);
  else
    std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(bytes) / 0x1p30);
  return text;
}

std::string_view advice(int error) {
  switch (error) {
    case 2:
      return "; a smaller train.microbatch_size needs less";
    case 35:
      return "; the NVIDIA driver is missing or older than this build's CUDA 13 (580 or newer is "
             "needed)";
    case 46:
    case 802:
      return "; another process may hold the GPU exclusively, or it is not ready yet";
    case 100:
      return "; no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)";
    case 209:
      return "; this build has code for sm_80, sm_90 and PTX for newer ones";
    case 214:
      return "; the GPU's memory failed: nvidia-smi -q -d ECC, and take the GPU out of service";
    case 803:
      return "; driver and user-space libraries are of different versions: reboot or reinstall";
    default:
      return "";
  }
}

}  // namespace

tenax_cuda_status status_of_cuda(int error) {
  switch (error) {
    case 0:
      return TENAX_CUDA_OK;
    case 1:    // InvalidValue
    case 9:    // InvalidConfiguration
    case 12:   // InvalidPitchValue
    case 17:   // InvalidDevicePointer
    case 21:   // InvalidMemcpyDirection
    case 98:   // InvalidDeviceFunction
    case 400:  // InvalidResourceHandle
      return TENAX_CUDA_INVALID_ARGUMENT;
    case 2:    // MemoryAllocation
    case 701:  // LaunchOutOfResources
      return TENAX_CUDA_OUT_OF_MEMORY;
    case 3:    // InitializationError
    case 34:   // StubLibrary
    case 35:   // InsufficientDriver
    case 46:   // DevicesUnavailable
    case 100:  // NoDevice
    case 101:  // InvalidDevice
    case 802:  // SystemNotReady
    case 803:  // SystemDriverMismatch
    case 804:  // CompatNotSupportedOnDevice
      return TENAX_CUDA_UNAVAILABLE;
    case 209:  // NoKernelImageForDevice
    case 222:  // UnsupportedPtxVersion
    case 801:  // NotSupported
      return TENAX_CUDA_UNSUPPORTED;
    case 214:  // ECCUncorrectable
    case 219:  // InvalidGraphicsContext
    case 220:  // NvlinkUncorrectable
    case 226:  // Contained
    case 700:  // IllegalAddress
    case 702:  // LaunchTimeout
    case 709:  // ContextIsDestroyed
    case 710:  // Assert
    case 714:  // HardwareStackError
    case 715:  // IllegalInstruction
    case 716:  // MisalignedAddress
    case 717:  // InvalidAddressSpace
    case 718:  // InvalidPc
    case 719:  // LaunchFailure
    case 721:  // TensorMemoryLeak
    case 810:  // MpsClientTerminated
    case 999:  // Unknown: whatever it is, memory can no longer be trusted
      return TENAX_CUDA_DEVICE_LOST;
    default:
      return TENAX_CUDA_INTERNAL;
  }
}

tenax_cuda_status status_of_cublas(int status) {
  switch (status) {
    case 0:
      return TENAX_CUDA_OK;
    case 1:  // NOT_INITIALIZED: no device
      return TENAX_CUDA_UNAVAILABLE;
    case 3:  // ALLOC_FAILED
      return TENAX_CUDA_OUT_OF_MEMORY;
    case 7:  // INVALID_VALUE
      return TENAX_CUDA_INVALID_ARGUMENT;
    case 8:   // ARCH_MISMATCH
    case 15:  // NOT_SUPPORTED
      return TENAX_CUDA_UNSUPPORTED;
    case 13:  // EXECUTION_FAILED: the kernel did not run to its end
      return TENAX_CUDA_DEVICE_LOST;
    default:
      return TENAX_CUDA_INTERNAL;
  }
}

tenax_cuda_status status_of_cudnn(int status) {
  // The thousands are the category since cuDNN 9.
  switch (status / 1000) {
    case 0:
      return status == 0 ? TENAX_CUDA_OK : TENAX_CUDA_INTERNAL;
    case 1:
      // Not initialised, versions that do not fit, a missing sublibrary; then what happened while
      // running.
      return status <= 1005 || status == 1008 ? TENAX_CUDA_UNAVAILABLE : TENAX_CUDA_INTERNAL;
    case 2:
      return TENAX_CUDA_INVALID_ARGUMENT;
    case 3:
      return TENAX_CUDA_UNSUPPORTED;
    case 4:
      return status == 4003 || status == 4004 ? TENAX_CUDA_OUT_OF_MEMORY : TENAX_CUDA_INTERNAL;
    case 5:
      return TENAX_CUDA_DEVICE_LOST;
    default:
      return TENAX_CUDA_INTERNAL;
  }
}

tenax_cuda_status status_of_nccl(int result) {
  switch (result) {
    case 0:
      return TENAX_CUDA_OK;
    case 1:  // ncclUnhandledCudaError
      return TENAX_CUDA_DEVICE_LOST;
    case 2:  // ncclSystemError
    case 6:  // ncclRemoteError
      return TENAX_CUDA_REMOTE_ERROR;
    case 4:  // ncclInvalidArgument
    case 5:  // ncclInvalidUsage
      return TENAX_CUDA_INVALID_ARGUMENT;
    case 7:  // ncclInProgress
      return TENAX_CUDA_IN_PROGRESS;
    default:
      return TENAX_CUDA_INTERNAL;
  }
}

std::string cuda_message(std::string_view doing, int error, std::string_view name,
                         std::string_view text) {
  std::string message(doing);
  message += ": ";
  message += name;
  message += " (" + std::to_string(error) + "): ";
  message += text;
  message += advice(error);
  return message;
}

std::string memory_message(std::string_view doing, std::uint64_t bytes, std::uint64_t free_bytes,
                           std::uint64_t total_bytes) {
  std::string message(doing);
  message += ": needs " + gibibytes(bytes) + " of device memory; of " + gibibytes(total_bytes) +
             " on the device " + gibibytes(free_bytes) + " are free";
  return message;
}

std::string_view xid_meaning(std::uint64_t xid) {
  switch (xid) {
    case 13:
      return "a kernel's fault (illegal instruction or address)";
    case 31:
      return "a memory page fault, mostly a program's fault";
    case 43:
      return "a program's fault stopped its channel";
    case 45:
      return "a process was ended while it used the GPU";
    case 48:
      return "an uncorrectable memory (ECC) error: take the GPU out of service";
    case 63:
    case 64:
      return "a memory row was retired or could not be: reset the GPU at the next chance";
    case 74:
      return "an NVLink error: the link or its peer failed";
    case 79:
      return "the GPU has fallen off the bus: the host must restart";
    case 92:
    case 94:
      return "a contained memory (ECC) error: the process is lost, the GPU goes on";
    case 95:
      return "an uncontained memory (ECC) error: take the GPU out of service";
    case 119:
    case 120:
      return "the GPU's system processor failed: the host must reset it";
    default:
      return "";
  }
}

std::string throttle_reasons(std::uint64_t mask) {
  struct Reason {
    std::uint64_t bit;
    const char* name;
  };
  // NVML's nvmlClocksEventReason* bits; 1 (idle) and 2 (application clocks) are no trouble.
  constexpr std::array<Reason, 6> kReasons = {{{0x4, "power cap"},
                                               {0x8, "hardware slowdown"},
                                               {0x20, "software thermal slowdown"},
                                               {0x40, "hardware thermal slowdown"},
                                               {0x80, "hardware power brake"},
                                               {0x100, "display clocks"}}};
  std::string names;
  for (const Reason& reason : kReasons) {
    if ((mask & reason.bit) == 0) continue;
    if (!names.empty()) names += ", ";
    names += reason.name;
  }
  return names.empty() ? "none" : names;
}

void copy_text(std::string_view text, char* to, std::size_t size) {
  if (to == nullptr || size == 0) return;
  const std::size_t length = std::min(text.size(), size - 1);
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

}  // namespace tenax::cuda
