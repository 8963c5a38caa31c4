// A GPU as the engine sees it: its memory, the few things done to it outside the stage, and the
// operations of the plugin with their first failure kept. See compute/device.h for the rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compute/cuda_plugin.h"
#include "compute/device.h"

namespace tenax::compute {

struct CudaDeviceOptions {
  int device = 0;
  /// Only algorithms whose sums are never split or reordered.
  bool reproducible = false;
};

/// Bytes of device memory, not initialised. Owner; movable.
class CudaMemory {
 public:
  CudaMemory() = default;
  CudaMemory(void* data, std::function<void(void*)> free) : data_(data, std::move(free)) {}
  std::byte* data() const { return static_cast<std::byte*>(data_.get()); }

 private:
  std::unique_ptr<void, std::function<void(void*)>> data_{nullptr, [](void*) {}};
};

class CudaDevice final : public Device, public std::enable_shared_from_this<CudaDevice> {
 public:
  /// kUnavailable or kUnsupported with what is missing.
  static Result<std::shared_ptr<CudaDevice>> open(std::shared_ptr<const CudaPlugin> plugin,
                                                  const CudaDeviceOptions& options);
  ~CudaDevice() override;

  bool host_visible() const override { return false; }
  Result<DeviceBuffer> allocate(std::size_t num_floats) override;
  Result<DeviceBuffer> allocate_host(std::size_t num_floats) override;
  std::shared_ptr<void> pin(std::span<const std::byte> host) override;
  void zero(std::span<float> buffer) override;
  void copy(std::span<const float> from, std::span<float> to) override;
  void add(std::span<const float> a, std::span<const float> b, std::span<float> sum) override;
  void chunk_squares(std::span<const NormRange> ranges) override;
  void adamw(const AdamwOptions& options, const AdamwStep& step,
             std::span<const AdamwRange> ranges) override;
  void read(std::span<const float> buffer, std::span<float> host) override;
  void write(std::span<const float> host, std::span<float> buffer) override;
  void begin_read(std::span<const float> buffer, std::span<float> host) override;
  Status finish_reads() override;
  void changed(std::span<const float> buffer) override { touch(buffer); }
  Status status() override;

  // --- For the stage.

  Result<CudaMemory> allocate_bytes(std::uint64_t bytes, const std::string& what);
  /// Device memory in bytes, the plugin's own too.
  struct Held {
    std::uint64_t bytes = 0;
    std::uint64_t peak_bytes = 0;  ///< the most at once
  };
  Held memory_held() const;
  /// The first failure, after which nothing is done any more. Waits for nothing, unlike status().
  Status kept() const { return error_kept_; }
  /// What was planned for this process: said where memory does not suffice. 0: nothing was.
  void expect(std::uint64_t bytes) { planned_bytes_ = bytes; }
  /// For logs: "GPU 0 (NVIDIA H100): held at most 1234 bytes of device memory".
  std::string memory_text() const;
  /// Queues an operation of the plugin: run(plugin().run_norm, call). Does nothing after a failure.
  template <class Function, class Call>
  void run(Function function, const Call& call) {
    if (error_) return;
    keep(function(context_, &call));
  }
  /// The same for functions with other arguments.
  template <class Function, class... Arguments>
  void queue(Function function, Arguments... arguments) {
    if (error_) return;
    keep(function(context_, arguments...));
  }
  const CudaPlugin& plugin() const { return *plugin_; }
  const tenax_cuda_device_info& info() const { return info_; }
  int index() const { return options_.device; }
  bool reproducible() const { return options_.reproducible; }

  /// From now on `copy` holds `values` as BF16: adamw() writes it too, and refresh_copies() makes
  /// it anew where something else has changed the values. forget_copy() before either is freed.
  void keep_copy(std::span<const float> values, void* copy);
  void forget_copy(const void* copy);
  void refresh_copies();

  /// Begins to form a communicator of GPUs; the caller polls it and destroys it.
  Status form_nccl(const char* id, int rank, int world_size, tenax_cuda_nccl** comm);

  /// The algorithms chosen so far, a line each, for manifests; and back.
  std::string plans();
  /// kUnsupported where the plugin does not know a line.
  Status use_plans(const std::string& text);

 private:
  CudaDevice(std::shared_ptr<const CudaPlugin> plugin, const CudaDeviceOptions& options)
      : plugin_(std::move(plugin)), options_(options) {}

  void keep(tenax_cuda_status status);
  /// The plugin's newest message, with the plan beside what is held where memory did not suffice.
  std::string message_of(tenax_cuda_status status) const;
  /// `buffer` is about to change: copies of values in it are old then.
  void touch(std::span<const float> buffer);
  /// BF16 copy of values that begin at `values`, or null.
  void* copy_of(const float* values) const;

  std::shared_ptr<const CudaPlugin> plugin_;
  CudaDeviceOptions options_;
  tenax_cuda_context* context_ = nullptr;
  tenax_cuda_device_info info_{};
  Status error_kept_;
  bool error_ = false;
  std::uint64_t planned_bytes_ = 0;
  CudaMemory squares_;
  std::size_t squares_size_ = 0;  ///< doubles
  struct Copy {
    std::span<const float> values;
    void* data = nullptr;
    bool is_old = true;
  };
  std::vector<Copy> copies_;
  std::vector<tenax_cuda_adamw_range> adamw_ranges_;  ///< of the newest update; kept for its memory
  bool reads_pending_ = false;
};

}  // namespace tenax::compute
