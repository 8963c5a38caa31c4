// Where a rank's large buffers lie (weights, gradients, optimizer state) and what is done to them
// outside the stage. The CPU's is memory itself; a GPU's is reached through its plugin.
//
// Work may run behind the caller's back, in the order of the calls. The first failure is kept,
// whatever follows it does nothing, and status() tells: a fault of a GPU is seen late and ends its
// context. Confined to the engine's thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "common/result.h"
#include "compute/adamw.h"
#include "compute/thread_pool.h"

namespace tenax::compute {

/// Floats on a device, or those of the host that it reaches fast; zeroed at first, of fixed size.
/// Owner of its memory; movable.
class DeviceBuffer {
 public:
  using Free = std::function<void(float*)>;

  DeviceBuffer() = default;
  DeviceBuffer(float* data, std::size_t size, Free free)
      : data_(data, std::move(free)), size_(size) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  float* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::span<float> span() const { return {data_.get(), size_}; }

 private:
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
};

/// A tensor and where the sums of squares of its chunks go (compute/tensor_norm.h).
struct NormRange {
  std::span<const float> tensor;
  std::span<double> sums;  ///< num_norm_chunks(tensor.size())
};

class Device {
 public:
  virtual ~Device() = default;

  /// True if the caller may read and write buffers itself. Otherwise a span of a buffer is only a
  /// name for memory elsewhere.
  virtual bool host_visible() const = 0;
  /// kNoSpace with what was asked for and what there is.
  virtual Result<DeviceBuffer> allocate(std::size_t num_floats) = 0;
  /// Memory of the host that copies to and from the device go through fastest. kNoSpace.
  virtual Result<DeviceBuffer> allocate_host(std::size_t num_floats) = 0;
  /// Makes the caller's host memory such memory until the answer is dropped, which must be before
  /// that memory goes. Null where it cannot be done: copies are slower then, nothing else.
  virtual std::shared_ptr<void> pin(std::span<const std::byte> host) = 0;

  virtual void zero(std::span<float> buffer) = 0;
  /// `to` and `from` are of equal length and do not overlap.
  virtual void copy(std::span<const float> from, std::span<float> to) = 0;
  /// sum[i] = a[i] + b[i]; sum may be a or b. Equal lengths.
  virtual void add(std::span<const float> a, std::span<const float> b, std::span<float> sum) = 0;
  /// chunk_sums_of_squares() of each, to the same bits. Waits; NaN after a failure.
  virtual void chunk_squares(std::span<const NormRange> ranges) = 0;
  /// One AdamW update of each range (compute/adamw.h).
  virtual void adamw(const AdamwOptions& options, const AdamwStep& step,
                     std::span<const AdamwRange> ranges) = 0;

  /// To and from the host's memory. Both wait until the bytes have moved. After a failure what is
  /// read is NaN.
  virtual void read(std::span<const float> buffer, std::span<float> host) = 0;
  virtual void write(std::span<const float> host, std::span<float> buffer) = 0;
  /// As read(), but may go on while the next step's forward and backward run; finish_reads() waits
  /// for it, and adamw() and write() do before they change a buffer.
  virtual void begin_read(std::span<const float> buffer, std::span<float> host) = 0;
  virtual Status finish_reads() = 0;

  /// `buffer` was written to by something else than this interface.
  virtual void changed(std::span<const float> buffer) = 0;

  /// Waits for everything that was begun. kDeviceLost: only a new process helps.
  virtual Status status() = 0;
};

/// The machine's memory; never fails but for want of it. What is long is shared with threads of its
/// own, in pieces whose number does not change a bit.
class HostDevice final : public Device {
 public:
  explicit HostDevice(int num_threads = 1) : pool_(num_threads) {}

  bool host_visible() const override { return true; }
  Result<DeviceBuffer> allocate(std::size_t num_floats) override;
  Result<DeviceBuffer> allocate_host(std::size_t num_floats) override {
    return allocate(num_floats);
  }
  std::shared_ptr<void> pin(std::span<const std::byte>) override { return nullptr; }
  void zero(std::span<float> buffer) override;
  void copy(std::span<const float> from, std::span<float> to) override;
  void add(std::span<const float> a, std::span<const float> b, std::span<float> sum) override;
  void chunk_squares(std::span<const NormRange> ranges) override;
  void adamw(const AdamwOptions& options, const AdamwStep& step,
             std::span<const AdamwRange> ranges) override;
  void read(std::span<const float> buffer, std::span<float> host) override;
  void write(std::span<const float> host, std::span<float> buffer) override;
  void begin_read(std::span<const float> buffer, std::span<float> host) override;
  Status finish_reads() override { return {}; }
  void changed(std::span<const float>) override {}
  Status status() override { return {}; }

 private:
  ThreadPool pool_;
};

}  // namespace tenax::compute
