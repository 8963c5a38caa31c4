#include "compute/tree_accumulator.h"

#include <algorithm>
#include <cstring>
#include <utility>

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

void TreeAccumulator::settle(std::size_t begin, std::size_t end) {
  TENAX_CHECK(!complete() && begin <= end && end <= num_elements_);
  Subtree newest{next_microbatch_, 0};
  for (std::size_t n = num_trees_; n > 0 && are_siblings(trees_[n - 1], newest); --n) {
    float* const left = buffers_[n - 1].get() + begin;
    add_floats(left, buffers_[n].get() + begin, left, end - begin);
    newest = {trees_[n - 1].begin, newest.level + 1};
  }
  num_settled_ += end - begin;
}

void TreeAccumulator::commit_settled() {
  TENAX_CHECK(std::exchange(num_settled_, 0) == num_elements_);
  trees_[num_trees_++] = {next_microbatch_++, 0};
  while (num_trees_ > 1 && are_siblings(trees_[num_trees_ - 2], trees_[num_trees_ - 1])) {
    --num_trees_;
    ++trees_[num_trees_ - 1].level;
  }
}

void TreeAccumulator::commit() {
  settle(0, num_elements_);
  commit_settled();
}

void TreeAccumulator::add(std::span<const float> gradients) {
  TENAX_CHECK(gradients.size() == num_elements_);
  std::copy(gradients.begin(), gradients.end(), next().begin());
  commit();
}

void TreeAccumulator::restart() {
  next_microbatch_ = range_.begin;
  num_trees_ = 0;
  num_settled_ = 0;
}

}  // namespace tenax::compute
