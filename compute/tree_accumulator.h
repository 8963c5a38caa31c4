// The gradient sums of one replica during a step: its microbatches arrive in ascending order and
// are added as far as the fixed tree allows (microbatch_tree.h), like carries in a binary counter.
// Confined to the engine's thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "compute/microbatch_tree.h"

namespace tenax::compute {

class TreeAccumulator {
 public:
  /// How many gradient buffers the microbatches of `range` need at once, the one being written
  /// included: at most log2(size) + 1 for a range that begins at 0, as few as 0 for an empty one.
  static int num_buffers(MicrobatchRange range);

  /// For gradients of `num_elements` floats; allocates num_buffers(range) of them here and nothing
  /// later.
  TreeAccumulator(std::size_t num_elements, MicrobatchRange range);

  /// Where the gradients of the next microbatch belong, contents unspecified (it may hold old sums:
  /// overwrite, do not add). Followed by commit(). Precondition: !complete().
  std::span<float> next();
  /// The buffer from next() is filled.
  void commit();
  /// The same a piece at a time: elements [begin, end) of the buffer from next() are filled, each
  /// exactly once before commit_settled(). Of the last microbatch, sums() of what is settled are
  /// those after commit_settled(). Followed by no commit().
  void settle(std::size_t begin, std::size_t end);
  void commit_settled();
  /// next(), copy, commit(). gradients.size() = num_elements.
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
  /// The sums over maximal_subtrees(range())[i], once complete() or settled.
  const float* sums(std::size_t i) const { return buffers_[i].get(); }

 private:
  const std::size_t num_elements_;
  const MicrobatchRange range_;
  int next_microbatch_;
  std::size_t num_trees_ = 0;
  std::size_t num_settled_ = 0;  ///< elements of the buffer from next()
  std::vector<Subtree> trees_;
  std::vector<std::unique_ptr<float[]>> buffers_;  // buffers_[i] belongs to trees_[i]
};

}  // namespace tenax::compute
