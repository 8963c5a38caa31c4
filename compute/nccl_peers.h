// GPUs of several ranks through NCCL, which the plugin opens when it is first asked for. Its
// communicators do not block: forming and transfers are polled, so an abort from another thread
// ends them, and a communicator that has failed is never used again. Errors are looked for before
// each exchange, while it is begun, and by the plugin while the device is waited for.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "common/annotations.h"
#include "common/clock.h"
#include "compute/communicator.h"
#include "compute/cuda_device.h"
#include "compute/device_peers.h"

namespace tenax::compute {

struct NcclOptions {
  int rank = 0;
  int world_size = 1;
  Duration form_timeout{};
  std::string key_prefix;  ///< the generation: equal on all ranks, never used twice in a run
};

/// Where a rank stands in its pipeline.
struct PipelinePlace {
  std::vector<int> ranks;  ///< of the world, in stage order
  int stage = 0;
  bool wraps = false;  ///< the last stage sends to the first: virtual stages
};

/// The links of a rank and their owners.
struct NcclNeighbours {
  NeighbourPeers links;
  std::vector<std::unique_ptr<DevicePeers>> owners;
};

class NcclPeers final : public DevicePeers {
 public:
  /// Empty where NCCL can be opened, else what is missing.
  static std::string missing(const CudaPlugin& plugin);

  /// Blocks until all ranks have formed. kTimeout, kAborted after a request on `stop` (which later
  /// aborts the communicator too), kUnavailable with NCCL's words.
  static Result<std::unique_ptr<DevicePeers>> create(std::shared_ptr<CudaDevice> device,
                                                     const NcclOptions& options,
                                                     Rendezvous& rendezvous,
                                                     std::stop_token stop = {});
  /// Called by all ranks of a pipeline. Of the options rank and size are not looked at.
  static Result<NcclNeighbours> connect_neighbours(std::shared_ptr<CudaDevice> device,
                                                   const NcclOptions& options,
                                                   const PipelinePlace& place,
                                                   Rendezvous& rendezvous,
                                                   std::stop_token stop = {});
  ~NcclPeers() override;

  Status begin(std::span<const DeviceTransfer> transfers) override;
  Status join() override;
  Status status() override;
  void abort(std::string reason) override;
  bool finish() override;

 private:
  explicit NcclPeers(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}
  Status form(const NcclOptions& options, Rendezvous& rendezvous, const std::stop_token& stop);
  Status outcome(tenax_cuda_status status);

  const std::shared_ptr<CudaDevice> device_;
  tenax_cuda_nccl* comm_ = nullptr;
  std::vector<std::span<float>> arriving_;  ///< since the last join()
  mutable Mutex mutex_;
  std::string reason_ TENAX_GUARDED_BY(mutex_);
  std::optional<std::stop_callback<std::function<void()>>> abort_on_stop_;
};

/// The orderly end of a generation's connections, made by all of its ranks, in any order. `world`
/// may be null. Blocks until all ranks are there, at most for `patience`; what is left then is
/// aborted when it is destroyed.
void finish_in_order(DevicePeers* world, const NcclNeighbours& neighbours,
                     Duration patience = std::chrono::seconds(2));

}  // namespace tenax::compute
