#include "actors/gpu_trouble.h"

#include <string>

namespace tenax::actors {

std::optional<DeviceTrouble> trouble_of(const Error& error) {
  // Codes are shared with other parts; the device and NCCL name themselves in each of their errors.
  const auto names = [&](const char* part) {
    return error.message.find(part) != std::string::npos;
  };
  switch (error.code) {
    case ErrorCode::kDeviceLost:
      return DeviceTrouble::kFault;
    case ErrorCode::kAborted:
      return std::nullopt;
    case ErrorCode::kNoSpace:
      if (names("GPU ")) return DeviceTrouble::kOutOfMemory;
      return std::nullopt;
    default:
      if (names("NCCL")) return DeviceTrouble::kCommunication;
      return std::nullopt;
  }
}

}  // namespace tenax::actors
