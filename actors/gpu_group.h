// How the GPUs of a generation's ranks reach each other: through NCCL where every rank has one of
// its own, through the hosts' memory where several share one or NCCL is missing somewhere. All
// ranks find the same answer. Blocks; the engine's thread.
#pragma once

#include <memory>
#include <span>
#include <stop_token>
#include <string>

#include "compute/communicator.h"
#include "compute/cuda_device.h"
#include "compute/device_peers.h"
#include "compute/nccl_peers.h"

namespace tenax::actors {

/// What a rank tells the others.
struct GpuPlace {
  std::string host;
  std::string bus_id;
};

/// Empty where each of `places` (by rank) is another GPU; else which ranks share one.
std::string shared_gpu(std::span<const GpuPlace> places);

struct GpuGroup {
  std::unique_ptr<compute::DevicePeers> peers;  ///< null: through the hosts' memory
  compute::NcclNeighbours neighbours;
  std::string why_staged;  ///< a sentence where peers is null
};

/// Called by all ranks of the world.
Result<GpuGroup> connect_gpus(std::shared_ptr<compute::CudaDevice> device,
                              compute::Communicator& comm, const compute::NcclOptions& options,
                              const compute::PipelinePlace& place, compute::Rendezvous& rendezvous,
                              std::stop_token stop);

}  // namespace tenax::actors
