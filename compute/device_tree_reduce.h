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

class DeviceTreeReducer {
 public:
  DeviceTreeReducer(std::shared_ptr<Device> device, TreeReduceOptions options);

  /// As TreeReducer's, `out` a buffer of the device.
  Status reduce_scatter(DevicePeers& peers, const Group& group, const TreeAccumulator& mine,
                        std::span<const std::size_t> parts, std::span<float> out);
  Status all_reduce(DevicePeers& peers, const Group& group, const TreeAccumulator& mine,
                    std::span<const std::size_t> parts, std::span<float> out);

 private:
  Status reduce_segment(DevicePeers& peers, const Group& group, const TreeAccumulator& mine,
                        std::span<const std::size_t> parts, std::size_t segment,
                        std::span<float> out);

  const std::shared_ptr<Device> device_;
  const TreeReduceOptions options_;
  std::vector<Subtree> trees_;       // of all members, ascending
  std::vector<TreeSource> sources_;  // of trees_
  std::size_t segment_elements_ = 0;
  std::size_t num_remote_ = 0;
  DeviceBuffer arrived_;  // a segment of each subtree of the others
  std::vector<DeviceBuffer> scratch_;
};

/// Member i has elements [parts[i], parts[i + 1]) of `buffer`; on return all have all.
Status all_gather_on(DevicePeers& peers, const Group& group, std::span<const std::size_t> parts,
                     std::span<float> buffer);

}  // namespace tenax::compute
