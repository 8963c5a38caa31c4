// The sum of all replicas' gradients in the fixed tree (microbatch_tree.h) where each has a GPU and
// reaches the others' (device_peers.h): as tree_reduce.h, with the same bits, but parts go from
// device to device and are added there. Confined to the engine's thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/result.h"
#include "compute/collectives.h"
#include "compute/device.h"
#include "compute/device_peers.h"
#include "compute/microbatch_tree.h"
#include "compute/tree_accumulator.h"
#include "compute/tree_reduce.h"

namespace tenax::compute {

/// sum = the tree's sum of inputs[t] over all t, with the bits of sum_subtrees() and its
/// conditions; buffers of the device, equally long. `scratch` grows by as many buffers of that
/// length as are needed, at most one for each level.
Status sum_subtrees_on(Device& device, std::span<const Subtree> trees,
                       std::span<const std::span<const float>> inputs,
                       std::vector<DeviceBuffer>& scratch, std::span<float> sum);

/// Reductions of a step: start() lets one travel beside the device's later work, finish() adds.
class DeviceTreeReducer {
 public:
  DeviceTreeReducer(std::shared_ptr<Device> device, TreeReduceOptions options);

  /// Room on the device for `bytes` of what arrives, at least for any one reduction, taken at the
  /// first start().
  void reserve(std::size_t bytes) { wanted_floats_ = bytes / sizeof(float); }

  /// As TreeReducer's, all buffers of the device; starts match in their order. While no room is
  /// left later work waits for what is on its way. kNoSpace.
  Status start(DevicePeers& peers, const Group& group, const TreeReduction& reduction);
  Status finish(DevicePeers& peers, const Group& group);
  /// Forgets what a failed step left on its way.
  void abandon();

 private:
  /// A reduction on its way; what arrives of the others' subtrees lies behind one another.
  struct Flight {
    const TreeReduction* reduction = nullptr;
    std::size_t begin = 0;  ///< in arrived_
    Time started{};
  };
  const GradientPiece& own_piece(const TreeReduction& r) const {
    return r.pieces[static_cast<std::size_t>(options_.index)];
  }
  std::span<float> arrived(const Flight& flight, std::size_t remote) const {
    const std::size_t size = own_piece(*flight.reduction).size();
    return arrived_.span().subspan(flight.begin + remote * size, size);
  }
  /// Queues the sums of all that is on its way.
  Status sum_arrived(DevicePeers& peers, const Group& group);
  Status gather(DevicePeers& peers, const Group& group);

  const std::shared_ptr<Device> device_;
  const TreeReduceOptions options_;
  std::vector<Subtree> trees_;       // of all members, ascending
  std::vector<TreeSource> sources_;  // of trees_
  std::size_t num_remote_ = 0;
  std::size_t wanted_floats_ = 0;
  DeviceBuffer arrived_;
  std::size_t used_ = 0;         ///< of arrived_
  std::vector<Flight> flights_;  ///< of the step
  std::size_t num_summed_ = 0;   ///< of the first
  std::vector<DeviceTransfer> transfers_;
  std::vector<DeviceBuffer> scratch_;
};

/// Member i has elements [parts[i], parts[i + 1]) of `buffer`; on return all have all.
Status all_gather_on(DevicePeers& peers, const Group& group, std::span<const std::size_t> parts,
                     std::span<float> buffer);

}  // namespace tenax::compute
