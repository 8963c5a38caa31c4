// The gradient sums of one replica during a step: its microbatches arrive in ascending order and
// are added as far as the fixed tree allows (microbatch_tree.h), like carries in a binary counter.
// They lie on the device that computes them. Confined to the engine's thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/result.h"
#include "compute/device.h"
#include "compute/microbatch_tree.h"

namespace tenax::compute {

class TreeAccumulator {
 public:
  /// How many gradient buffers the microbatches of `range` need at once, the one being written
  /// included: at most log2(size) + 1 for a range that begins at 0, as few as 0 for an empty one.
  static int num_buffers(MicrobatchRange range);

  /// For gradients of `num_elements` floats; allocates num_buffers(range) of them here, and on the
  /// device nothing later. kNoSpace.
  static Result<std::unique_ptr<TreeAccumulator>> create(std::shared_ptr<Device> device,
                                                         std::size_t num_elements,
                                                         MicrobatchRange range);
  /// The same in the machine's memory; throws std::bad_alloc.
  TreeAccumulator(std::size_t num_elements, MicrobatchRange range);

  /// Where the gradients of the next microbatch belong, on the device, contents unspecified (it may
  /// hold old sums: overwrite, do not add). Followed by commit(). Precondition: !complete().
  std::span<float> next();
  /// The buffer from next() is filled.
  void commit();
  /// The same a piece at a time: elements [begin, end) of the buffer from next() are filled, each
  /// exactly once before commit_settled(). Of the last microbatch, sums() of what is settled are
  /// those after commit_settled(). Followed by no commit().
  void settle(std::size_t begin, std::size_t end);
  void commit_settled();
  /// next(), copy from the host, commit(). gradients.size() = num_elements.
  void add(std::span<const float> gradients);
  /// Forgets everything: a new step, or the same one again.
  void restart();

  std::size_t num_elements() const { return num_elements_; }
  MicrobatchRange range() const { return range_; }
  /// next() is for the last microbatch of the range.
  bool at_last() const { return next_microbatch_ + 1 == range_.end; }
  bool complete() const { return next_microbatch_ == range_.end; }
  /// What is summed so far: after complete(), maximal_subtrees(range()).
  std::span<const Subtree> subtrees() const { return {trees_.data(), num_trees_}; }
  /// The sums over subtrees()[i], on the device.
  std::span<float> on_device(std::size_t i) const { return buffers_[i].span(); }
  /// Brings the sums to the host where the host does not see the device's memory; waits. The first
  /// call takes memory there for as many as there are subtrees.
  Status fetch();
  /// The sums over maximal_subtrees(range())[i] on the host, once complete() or settled; from
  /// another device as of the newest fetch().
  const float* sums(std::size_t i) const {
    return (device_->host_visible() ? buffers_ : fetched_)[i].data();
  }
  /// The tree's sum over all microbatches, where the range is all of them; `sum` is a buffer of the
  /// device's. The bits are those of sum_subtrees().
  void total(std::span<float> sum) const;

 private:
  TreeAccumulator(std::shared_ptr<Device> device, std::size_t num_elements, MicrobatchRange range);

  const std::shared_ptr<Device> device_;
  const std::size_t num_elements_;
  const MicrobatchRange range_;
  int next_microbatch_;
  std::size_t num_trees_ = 0;
  std::size_t num_settled_ = 0;  ///< elements of the buffer from next()
  std::vector<Subtree> trees_;
  std::vector<DeviceBuffer> buffers_;  // buffers_[i] belongs to trees_[i]
  std::vector<DeviceBuffer> fetched_;  // the same on the host
};

}  // namespace tenax::compute
