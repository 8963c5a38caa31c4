// The tags of an engine's messages, and floats as their bytes. Internal to the engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tenax::compute {

/// The lower half of a tag is free: the virtual stage of a boundary tensor.
enum EngineTag : std::uint64_t {
  kForwardTag = 1ULL << 32,
  kBackwardTag = 2ULL << 32,
  kReduceTag = 3ULL << 32,
  kTiedTag = 4ULL << 32,
  kVerdictTag = 5ULL << 32,
  kEvaluateTag = 6ULL << 32,
  kStateTag = 7ULL << 32,
  kNormTag = 8ULL << 32,
  kWeightsTag = 9ULL << 32,
  kPartialTag = 10ULL << 32,
  kGpuTag = 11ULL << 32,
};

inline std::span<const std::byte> bytes_of(std::span<const float> f) { return std::as_bytes(f); }
inline std::span<std::byte> writable_bytes_of(std::span<float> f) {
  return std::as_writable_bytes(f);
}

}  // namespace tenax::compute
