// A block of floats on a 64-byte boundary (a cache line, an AVX-512 register), zeroed, of fixed
// size; a large one in huge pages. Owner of its memory; movable; no locking.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>

#include "common/huge_pages.h"

namespace tenax::compute {

/// Floats in 64 bytes: offsets of tensors inside a buffer are multiples of it.
inline constexpr std::size_t kAlignFloats = 16;

constexpr std::size_t align_floats(std::size_t n) {
  return (n + kAlignFloats - 1) / kAlignFloats * kAlignFloats;
}

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Throws std::bad_alloc when the machine has not that much.
  explicit AlignedBuffer(std::size_t num_floats) : size_(num_floats) {
    if (num_floats == 0) return;
    std::size_t bytes = align_floats(num_floats) * sizeof(float);
    const bool large = bytes >= kHugePage / 2;
    if (large) bytes = std::max(bytes, kHugePage);
    void* memory = nullptr;
    if (::posix_memalign(&memory, large ? kHugePage : 64, bytes) != 0) throw std::bad_alloc();
    data_.reset(static_cast<float*>(memory));
    if (large) want_huge_pages(data_.get(), bytes);
    std::memset(data_.get(), 0, bytes);
  }
  AlignedBuffer(AlignedBuffer&&) noexcept = default;
  AlignedBuffer& operator=(AlignedBuffer&&) noexcept = default;

  float* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::span<float> span() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
};

/// Deals out aligned pieces of a block. Without a block it only counts, so one placing function
/// both measures and places.
class Arena {
 public:
  explicit Arena(float* base = nullptr) : base_(base) {}

  /// The next `n` floats on a 64-byte boundary; nullptr while counting.
  float* take(std::size_t n) {
    const std::size_t at = used_;
    used_ += align_floats(n);
    return base_ == nullptr ? nullptr : base_ + at;
  }
  std::size_t used() const { return used_; }

 private:
  float* base_;
  std::size_t used_ = 0;
};

}  // namespace tenax::compute
