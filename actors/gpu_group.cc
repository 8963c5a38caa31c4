#include "actors/gpu_group.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "compute/collectives.h"
#include "compute/engine_tags.h"

namespace tenax::actors {

namespace {

/// A text of fixed length from each rank.
constexpr std::size_t kTextBytes = 256;
using Text = std::array<char, kTextBytes>;

Result<std::vector<std::string>> gather_texts(compute::Communicator& comm,
                                              const std::string& mine) {
  std::vector<int> ranks(static_cast<std::size_t>(comm.world_size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  Text sent{};
  std::memcpy(sent.data(), mine.data(), std::min(mine.size(), kTextBytes - 1));
  std::vector<Text> all(ranks.size());
  TENAX_RETURN_IF_ERROR(compute::all_gather(comm, {ranks, comm.rank()}, compute::kGpuTag,
                                            std::as_bytes(std::span(sent)),
                                            std::as_writable_bytes(std::span(all))));
  std::vector<std::string> texts;
  for (const Text& text : all) texts.emplace_back(text.data());
  return texts;
}

std::string host_name() {
  std::array<char, 128> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

}  // namespace

std::string shared_gpu(std::span<const GpuPlace> places) {
  for (std::size_t a = 0; a < places.size(); ++a) {
    for (std::size_t b = a + 1; b < places.size(); ++b) {
      if (places[a].host == places[b].host && places[a].bus_id == places[b].bus_id)
        return fmt::format("ranks {} and {} share the GPU {} of {}", a, b, places[a].bus_id,
                           places[a].host);
    }
  }
  return "";
}

Result<GpuGroup> connect_gpus(std::shared_ptr<compute::CudaDevice> device,
                              compute::Communicator& comm, const compute::NcclOptions& options,
                              const compute::PipelinePlace& place, compute::Rendezvous& rendezvous,
                              std::stop_token stop) {
  GpuGroup group;
  TENAX_TRY(const auto hosts, gather_texts(comm, host_name()));
  TENAX_TRY(const auto buses, gather_texts(comm, device->info().bus_id));
  std::vector<GpuPlace> places;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank)
    places.push_back({hosts[rank], buses[rank]});
  group.why_staged = shared_gpu(places);
  if (!group.why_staged.empty()) return group;
  // Opened only now: a GPU that is shared does without.
  TENAX_TRY(const auto missing, gather_texts(comm, compute::NcclPeers::missing(device->plugin())));
  for (std::size_t rank = 0; rank < missing.size(); ++rank) {
    if (missing[rank].empty()) continue;
    group.why_staged = fmt::format("rank {} has no NCCL: {}", rank, missing[rank]);
    return group;
  }
  TENAX_TRY(group.peers, compute::NcclPeers::create(device, options, rendezvous, stop));
  TENAX_TRY(group.neighbours, compute::NcclPeers::connect_neighbours(
                                  std::move(device), options, place, rendezvous, std::move(stop)));
  return group;
}

}  // namespace tenax::actors
