// What the host does with numbers that lie on a device (send, receive, hash): a copy of a stretch
// of a buffer in memory that the device reaches fast, or the stretch itself where the host sees it.
// Confined to the engine's thread.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "common/result.h"
#include "compute/device.h"

namespace tenax::compute {

class Staging {
 public:
  explicit Staging(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  /// Host memory that stands for `buffer`: itself, or room for a copy, its contents unspecified.
  /// Good until the next view(). kNoSpace where the host has not as much.
  Result<std::span<float>> view(std::span<float> buffer);
  /// From the device to its view, and back; nothing where they are the same. Both wait.
  Status fetch(std::span<const float> buffer, std::span<float> host);
  Status store(std::span<const float> host, std::span<float> buffer);

 private:
  std::shared_ptr<Device> device_;
  DeviceBuffer room_;
};

}  // namespace tenax::compute
