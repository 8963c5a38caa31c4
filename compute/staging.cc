#include "compute/staging.h"

namespace tenax::compute {

Result<std::span<float>> Staging::view(std::span<float> buffer) {
  if (device_->host_visible()) return buffer;
  if (room_.size() < buffer.size()) {
    room_ = {};
    TENAX_TRY(room_, device_->allocate_host(buffer.size()));
  }
  return room_.span().first(buffer.size());
}

Status Staging::fetch(std::span<const float> buffer, std::span<float> host) {
  if (device_->host_visible()) return {};
  device_->read(buffer, host);
  return device_->status();
}

Status Staging::store(std::span<const float> host, std::span<float> buffer) {
  if (device_->host_visible()) return {};
  device_->write(host, buffer);
  return device_->status();
}

}  // namespace tenax::compute
