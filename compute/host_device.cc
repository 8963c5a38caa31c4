#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "common/check.h"
#include "compute/aligned_buffer.h"
#include "compute/device.h"
#include "compute/microbatch_tree.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {
namespace {

/// Floats of a piece of work: 256 KiB, and whole chunks of the gradient norm.
constexpr std::size_t kPiece = 16 * kNormChunk;

std::size_t num_pieces(std::size_t size) { return (size + kPiece - 1) / kPiece; }

/// Calls f(begin, end) for the pieces of [0, size), on the pool's threads.
template <class F>
void for_pieces(ThreadPool& pool, std::size_t size, const F& f) {
  pool.run(static_cast<std::uint32_t>(num_pieces(size)), [&](std::uint32_t piece, int) {
    const std::size_t begin = piece * kPiece;
    f(begin, std::min(begin + kPiece, size));
  });
}

/// Calls f(range, begin, end) for the pieces of all ranges at once.
template <class Range, class SizeOf, class F>
void for_pieces(ThreadPool& pool, std::span<const Range> ranges, const SizeOf& size_of,
                const F& f) {
  std::size_t pieces = 0;
  for (const Range& range : ranges) pieces += num_pieces(size_of(range));
  pool.run(static_cast<std::uint32_t>(pieces), [&](std::uint32_t task, int) {
    std::size_t piece = task;
    auto range = ranges.begin();
    for (; piece >= num_pieces(size_of(*range)); ++range) piece -= num_pieces(size_of(*range));
    const std::size_t begin = piece * kPiece;
    f(*range, begin, std::min(begin + kPiece, size_of(*range)));
  });
}

}  // namespace

Result<DeviceBuffer> HostDevice::allocate(std::size_t num_floats) {
  try {
    auto owner = std::make_shared<AlignedBuffer>(num_floats);
    return DeviceBuffer(owner->data(), num_floats, [owner](float*) {});
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoSpace, fmt::format("{} bytes of memory are not available",
                                                       num_floats * sizeof(float)));
  }
}

void HostDevice::zero(std::span<float> buffer) {
  for_pieces(pool_, buffer.size(), [&](std::size_t begin, std::size_t end) {
    std::ranges::fill(buffer.subspan(begin, end - begin), 0.0F);
  });
}

void HostDevice::copy(std::span<const float> from, std::span<float> to) {
  TENAX_CHECK(from.size() == to.size());
  for_pieces(pool_, to.size(), [&](std::size_t begin, std::size_t end) {
    std::ranges::copy(from.subspan(begin, end - begin), to.subspan(begin).begin());
  });
}

void HostDevice::add(std::span<const float> a, std::span<const float> b, std::span<float> sum) {
  TENAX_CHECK(a.size() == sum.size() && b.size() == sum.size());
  for_pieces(pool_, sum.size(), [&](std::size_t begin, std::size_t end) {
    add_floats(a.data() + begin, b.data() + begin, sum.data() + begin, end - begin);
  });
}

void HostDevice::chunk_squares(std::span<const NormRange> ranges) {
  for_pieces(
      pool_, ranges, [](const NormRange& range) { return range.tensor.size(); },
      [](const NormRange& range, std::size_t begin, std::size_t end) {
        chunk_sums_of_squares(range.tensor.subspan(begin, end - begin),
                              range.sums.subspan(begin / kNormChunk, num_norm_chunks(end - begin)));
      });
}

void HostDevice::adamw(const AdamwOptions& options, const AdamwStep& step,
                       std::span<const AdamwRange> ranges) {
  for_pieces(
      pool_, ranges, [](const AdamwRange& range) { return range.values.size(); },
      [&](const AdamwRange& range, std::size_t begin, std::size_t end) {
        const std::size_t n = end - begin;
        adamw_update(options, step,
                     {range.values.subspan(begin, n), range.gradient.subspan(begin, n),
                      range.m.subspan(begin, n), range.v.subspan(begin, n), range.decay});
      });
}

void HostDevice::read(std::span<const float> buffer, std::span<float> host) { copy(buffer, host); }

void HostDevice::write(std::span<const float> host, std::span<float> buffer) { copy(host, buffer); }

void HostDevice::begin_read(std::span<const float> buffer, std::span<float> host) {
  copy(buffer, host);
}

}  // namespace tenax::compute
