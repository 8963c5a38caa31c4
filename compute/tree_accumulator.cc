#include "compute/tree_accumulator.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace tenax::compute {

int TreeAccumulator::num_buffers(MicrobatchRange range) {
  std::size_t peak = 0;
  // Just before the last microbatch of a prefix is merged, all before it is merged as far as
  // possible.
  for (int end = range.begin; end < range.end; ++end) {
    peak = std::max(peak, maximal_subtrees({range.begin, end}).size() + 1);
  }
  return static_cast<int>(peak);
}

TreeAccumulator::TreeAccumulator(std::size_t num_elements, MicrobatchRange range)
    : num_elements_(num_elements), range_(range), next_microbatch_(range.begin) {
  TENAX_CHECK(0 <= range.begin && range.begin <= range.end);
  buffers_.resize(num_buffers(range));
  trees_.resize(buffers_.size());
  for (auto& buffer : buffers_) buffer = std::make_unique<float[]>(num_elements);
}

std::span<float> TreeAccumulator::next() {
  TENAX_CHECK(!complete());
  return {buffers_[num_trees_].get(), num_elements_};
}

void TreeAccumulator::commit() {
  TENAX_CHECK(!complete());
  trees_[num_trees_++] = {next_microbatch_++, 0};
  while (num_trees_ > 1 && are_siblings(trees_[num_trees_ - 2], trees_[num_trees_ - 1])) {
    --num_trees_;
    float* const left = buffers_[num_trees_ - 1].get();
    add_floats(left, buffers_[num_trees_].get(), left, num_elements_);
    ++trees_[num_trees_ - 1].level;
  }
}

void TreeAccumulator::add(std::span<const float> gradients) {
  TENAX_CHECK(gradients.size() == num_elements_);
  std::copy(gradients.begin(), gradients.end(), next().begin());
  commit();
}

void TreeAccumulator::restart() {
  next_microbatch_ = range_.begin;
  num_trees_ = 0;
}

}  // namespace tenax::compute
