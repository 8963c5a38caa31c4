#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "common/check.h"
#include "compute/aligned_buffer.h"
#include "compute/device.h"
#include "compute/microbatch_tree.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {

Result<DeviceBuffer> HostDevice::allocate(std::size_t num_floats) {
  try {
    auto owner = std::make_shared<AlignedBuffer>(num_floats);
    return DeviceBuffer(owner->data(), num_floats, [owner](float*) {});
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoSpace, fmt::format("{} bytes of memory are not available",
                                                       num_floats * sizeof(float)));
  }
}

void HostDevice::zero(std::span<float> buffer) { std::ranges::fill(buffer, 0.0F); }

void HostDevice::copy(std::span<const float> from, std::span<float> to) {
  TENAX_CHECK(from.size() == to.size());
  std::ranges::copy(from, to.begin());
}

void HostDevice::add(std::span<const float> a, std::span<const float> b, std::span<float> sum) {
  TENAX_CHECK(a.size() == sum.size() && b.size() == sum.size());
  add_floats(a.data(), b.data(), sum.data(), sum.size());
}

void HostDevice::chunk_squares(std::span<const NormRange> ranges) {
  for (const NormRange& range : ranges) chunk_sums_of_squares(range.tensor, range.sums);
}

void HostDevice::adamw(const AdamwOptions& options, const AdamwStep& step,
                       std::span<const AdamwRange> ranges) {
  for (const AdamwRange& range : ranges) adamw_update(options, step, range);
}

void HostDevice::read(std::span<const float> buffer, std::span<float> host) { copy(buffer, host); }

void HostDevice::write(std::span<const float> host, std::span<float> buffer) { copy(host, buffer); }

void HostDevice::begin_read(std::span<const float> buffer, std::span<float> host) {
  copy(buffer, host);
}

}  // namespace tenax::compute
