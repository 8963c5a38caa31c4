#include "compute/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "common/check.h"
#include "compute/adamw_factors.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {
namespace {

constexpr std::size_t kMessageBytes = 1024;
constexpr std::size_t kBfloat16Bytes = 2;

}  // namespace

Result<std::shared_ptr<CudaDevice>> CudaDevice::open(std::shared_ptr<const CudaPlugin> plugin,
                                                     const CudaDeviceOptions& options) {
  TENAX_TRY(const int count, cuda_device_count(*plugin));
  if (options.device < 0 || options.device >= count)
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("GPU {} was asked for, there are {}", options.device, count));
  std::shared_ptr<CudaDevice> device(new CudaDevice(std::move(plugin), options));
  const CudaPlugin& p = device->plugin();
  TENAX_TRY(device->info_, cuda_device_info(p, options.device));
  std::array<char, kMessageBytes> message{};
  tenax_cuda_options wanted{};
  wanted.device = options.device;
  wanted.reproducible = options.reproducible ? 1 : 0;
  const tenax_cuda_status status =
      p.create(&wanted, &device->context_, message.data(), message.size());
  TENAX_RETURN_IF_ERROR(cuda_status(status, message.data()));
  return device;
}

CudaDevice::~CudaDevice() {
  squares_ = {};
  if (context_ != nullptr) plugin_->destroy(context_);
}

void CudaDevice::keep(tenax_cuda_status status) {
  if (status == TENAX_CUDA_OK || error_) return;
  error_ = true;
  error_kept_ = cuda_status(
      status, fmt::format("GPU {} ({}): {}", options_.device, info_.name, message_of(status)));
}

std::string CudaDevice::message_of(tenax_cuda_status status) const {
  std::string message = plugin_->message(context_);
  if (status != TENAX_CUDA_OUT_OF_MEMORY) return message;
  const Held held = memory_held();
  message += fmt::format("; this worker holds {} bytes of it, at most it held {}", held.bytes,
                         held.peak_bytes);
  if (planned_bytes_ > 0) message += fmt::format(", planned for it are {}", planned_bytes_);
  return message;
}

Status CudaDevice::status() {
  queue(plugin_->synchronize);
  return error_kept_;
}

Result<CudaMemory> CudaDevice::allocate_bytes(std::uint64_t bytes, const std::string& what) {
  if (bytes == 0) return CudaMemory();
  void* memory = nullptr;
  TENAX_RETURN_IF_ERROR(error_kept_);
  const tenax_cuda_status status = plugin_->malloc(context_, bytes, &memory);
  // Too little memory is told, not kept: what there was before goes on.
  if (status != TENAX_CUDA_OK) {
    if (status == TENAX_CUDA_DEVICE_LOST) keep(status);
    return cuda_status(status, fmt::format("GPU {} ({}), {}: {}", options_.device, info_.name, what,
                                           message_of(status)))
        .error();
  }
  // Memory keeps its device, but the device's own scratch must not.
  const CudaPlugin* plugin = plugin_.get();
  tenax_cuda_context* context = context_;
  return CudaMemory(memory, [plugin, context](void* p) { plugin->free(context, p); });
}

CudaDevice::Held CudaDevice::memory_held() const {
  Held held;
  static_cast<void>(plugin_->memory_held(context_, &held.bytes, &held.peak_bytes));
  return held;
}

std::string CudaDevice::memory_text() const {
  return fmt::format("GPU {} ({}): held at most {} bytes of device memory", options_.device,
                     info_.name, memory_held().peak_bytes);
}

Result<DeviceBuffer> CudaDevice::allocate(std::size_t num_floats) {
  TENAX_TRY(CudaMemory memory, allocate_bytes(num_floats * sizeof(float), "a buffer of floats"));
  auto* const data = reinterpret_cast<float*>(memory.data());
  if (num_floats > 0) queue(plugin_->fill_zero, data, num_floats * sizeof(float));
  // The buffer holds the device, which must live until its memory is given back.
  auto owner = std::make_shared<std::pair<std::shared_ptr<CudaDevice>, CudaMemory>>(
      shared_from_this(), std::move(memory));
  return DeviceBuffer(data, num_floats, [owner](float*) mutable {
    owner->second = {};
    owner.reset();
  });
}

Result<DeviceBuffer> CudaDevice::allocate_host(std::size_t num_floats) {
  if (num_floats == 0) return DeviceBuffer();
  void* memory = nullptr;
  const std::size_t bytes = num_floats * sizeof(float);
  TENAX_RETURN_IF_ERROR(error_kept_);
  const tenax_cuda_status status = plugin_->host_malloc(context_, bytes, &memory);
  if (status != TENAX_CUDA_OK) {
    if (status == TENAX_CUDA_DEVICE_LOST) keep(status);
    return cuda_status(status,
                       fmt::format("GPU {} ({}), {} bytes of pinned host memory: {}",
                                   options_.device, info_.name, bytes, plugin_->message(context_)))
        .error();
  }
  std::memset(memory, 0, bytes);
  return DeviceBuffer(
      static_cast<float*>(memory), num_floats,
      [device = shared_from_this()](float* p) { device->plugin_->host_free(device->context_, p); });
}

std::shared_ptr<void> CudaDevice::pin(std::span<const std::byte> host) {
  if (error_ || host.empty()) return nullptr;
  auto* const memory = const_cast<std::byte*>(host.data());  // only registered
  if (plugin_->host_register(context_, memory, host.size()) != TENAX_CUDA_OK) return nullptr;
  return {memory, [device = shared_from_this()](void* p) {
            device->plugin_->host_unregister(device->context_, p);
          }};
}

void CudaDevice::touch(std::span<const float> buffer) {
  for (Copy& copy : copies_) {
    const float* const end = copy.values.data() + copy.values.size();
    if (buffer.data() < end && buffer.data() + buffer.size() > copy.values.data())
      copy.is_old = true;
  }
}

void* CudaDevice::copy_of(const float* values) const {
  for (const Copy& copy : copies_) {
    if (values < copy.values.data() || values >= copy.values.data() + copy.values.size()) continue;
    return static_cast<std::byte*>(copy.data) +
           static_cast<std::size_t>(values - copy.values.data()) * kBfloat16Bytes;
  }
  return nullptr;
}

void CudaDevice::keep_copy(std::span<const float> values, void* copy) {
  copies_.push_back({values, copy, true});
}

void CudaDevice::forget_copy(const void* copy) {
  std::erase_if(copies_, [&](const Copy& c) { return c.data == copy; });
}

void CudaDevice::refresh_copies() {
  for (Copy& copy : copies_) {
    if (!copy.is_old) continue;
    queue(plugin_->run_cast, static_cast<const void*>(copy.values.data()),
          std::int32_t{TENAX_CUDA_F32}, copy.data, std::int32_t{TENAX_CUDA_BF16},
          static_cast<std::int64_t>(copy.values.size()));
    copy.is_old = false;
  }
}

void CudaDevice::zero(std::span<float> buffer) {
  if (buffer.empty()) return;
  touch(buffer);
  queue(plugin_->fill_zero, buffer.data(), buffer.size_bytes());
}

void CudaDevice::copy(std::span<const float> from, std::span<float> to) {
  TENAX_CHECK(from.size() == to.size());
  if (from.empty()) return;
  touch(to);
  queue(plugin_->copy, to.data(), from.data(), from.size_bytes());
}

void CudaDevice::add(std::span<const float> a, std::span<const float> b, std::span<float> sum) {
  TENAX_CHECK(a.size() == sum.size() && b.size() == sum.size());
  if (sum.empty()) return;
  touch(sum);
  queue(plugin_->run_add, a.data(), b.data(), sum.data(), static_cast<std::int64_t>(sum.size()));
}

void CudaDevice::chunk_squares(std::span<const NormRange> ranges) {
  std::size_t chunks = 0;
  for (const NormRange& range : ranges) {
    TENAX_CHECK(range.sums.size() == num_norm_chunks(range.tensor.size()));
    chunks += range.sums.size();
  }
  if (chunks == 0) return;
  if (chunks > squares_size_) {
    auto memory = allocate_bytes(chunks * sizeof(double), "sums of squares");
    if (memory) {
      squares_ = *std::move(memory);
      squares_size_ = chunks;
    } else {
      if (!error_) error_kept_ = memory.error();
      error_ = true;
    }
  }
  auto* const on_device = reinterpret_cast<double*>(squares_.data());
  std::size_t at = 0;
  for (const NormRange& range : ranges) {
    if (range.tensor.empty()) continue;
    queue(plugin_->run_chunk_squares, range.tensor.data(),
          static_cast<std::int64_t>(range.tensor.size()), on_device + at);
    at += range.sums.size();
  }
  std::vector<double> host(chunks);
  queue(plugin_->to_host, static_cast<void*>(host.data()), static_cast<const void*>(on_device),
        chunks * sizeof(double));
  if (error_) std::ranges::fill(host, std::numeric_limits<double>::quiet_NaN());
  auto from = host.begin();
  for (const NormRange& range : ranges) {
    std::copy_n(from, range.sums.size(), range.sums.begin());
    from += static_cast<std::ptrdiff_t>(range.sums.size());
  }
}

void CudaDevice::adamw(const AdamwOptions& options, const AdamwStep& step,
                       std::span<const AdamwRange> ranges) {
  adamw_ranges_.clear();
  for (const AdamwRange& range : ranges) {
    if (range.values.empty()) continue;
    tenax_cuda_adamw_range& r = adamw_ranges_.emplace_back();
    r.count = static_cast<std::int64_t>(range.values.size());
    r.values = range.values.data();
    r.gradient = range.gradient.data();
    r.m = range.m.data();
    r.v = range.v.data();
    r.copy = copy_of(range.values.data());
    r.decays = range.decay ? 1 : 0;
  }
  if (adamw_ranges_.empty()) return;
  if (reads_pending_) queue(plugin_->order_after_reads);
  tenax_cuda_adamw call{};
  set_factors(options, step, call);
  queue(plugin_->run_adamw, &std::as_const(call), std::as_const(adamw_ranges_).data(),
        static_cast<std::int32_t>(adamw_ranges_.size()));
}

void CudaDevice::read(std::span<const float> buffer, std::span<float> host) {
  TENAX_CHECK(buffer.size() == host.size());
  if (buffer.empty()) return;
  queue(plugin_->to_host, static_cast<void*>(host.data()), static_cast<const void*>(buffer.data()),
        buffer.size_bytes());
  if (error_) std::ranges::fill(host, std::numeric_limits<float>::quiet_NaN());
}

void CudaDevice::write(std::span<const float> host, std::span<float> buffer) {
  TENAX_CHECK(buffer.size() == host.size());
  if (buffer.empty()) return;
  if (reads_pending_) queue(plugin_->order_after_reads);
  touch(buffer);
  queue(plugin_->to_device, static_cast<void*>(buffer.data()),
        static_cast<const void*>(host.data()), buffer.size_bytes());
}

void CudaDevice::begin_read(std::span<const float> buffer, std::span<float> host) {
  TENAX_CHECK(buffer.size() == host.size());
  if (buffer.empty()) return;
  reads_pending_ = true;
  queue(plugin_->begin_read, static_cast<void*>(host.data()),
        static_cast<const void*>(buffer.data()), buffer.size_bytes());
}

Status CudaDevice::finish_reads() {
  if (std::exchange(reads_pending_, false)) queue(plugin_->finish_reads);
  return error_kept_;
}

Status CudaDevice::form_nccl(const char* id, int rank, int world_size, tenax_cuda_nccl** comm) {
  TENAX_RETURN_IF_ERROR(error_kept_);
  const tenax_cuda_status status = plugin_->nccl_create(context_, id, rank, world_size, comm);
  return cuda_status(status, fmt::format("GPU {} ({}), NCCL: {}", options_.device, info_.name,
                                         plugin_->message(context_)));
}

std::string CudaDevice::plans() {
  std::size_t needed = 0;
  if (error_ || plugin_->plans(context_, nullptr, 0, &needed) != TENAX_CUDA_OK) return "";
  std::string text(needed, '\0');
  plugin_->plans(context_, text.data(), text.size(), &needed);
  text.resize(needed > 0 ? needed - 1 : 0);
  return text;
}

Status CudaDevice::use_plans(const std::string& text) {
  std::int32_t refused = 0;
  plugin_->use_plans(context_, text.c_str(), &refused);
  if (refused == 0) return {};
  return make_error(ErrorCode::kUnsupported,
                    fmt::format("GPU {} ({}): {} of the algorithms written down are none of this "
                                "plugin's",
                                options_.device, info_.name, refused));
}

}  // namespace tenax::compute
