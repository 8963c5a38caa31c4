#include "compute/tree_accumulator.h"

#include <algorithm>
#include <new>
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

Result<std::unique_ptr<TreeAccumulator>> TreeAccumulator::create(std::shared_ptr<Device> device,
                                                                 std::size_t num_elements,
                                                                 MicrobatchRange range) {
  TENAX_CHECK(0 <= range.begin && range.begin <= range.end);
  std::unique_ptr<TreeAccumulator> made(
      new TreeAccumulator(std::move(device), num_elements, range));
  made->buffers_.resize(static_cast<std::size_t>(num_buffers(range)));
  made->trees_.resize(made->buffers_.size());
  for (DeviceBuffer& buffer : made->buffers_) {
    TENAX_TRY(buffer, made->device_->allocate(num_elements));
  }
  return made;
}

TreeAccumulator::TreeAccumulator(std::shared_ptr<Device> device, std::size_t num_elements,
                                 MicrobatchRange range)
    : device_(std::move(device)),
      num_elements_(num_elements),
      range_(range),
      next_microbatch_(range.begin) {}

TreeAccumulator::TreeAccumulator(std::size_t num_elements, MicrobatchRange range)
    : TreeAccumulator(std::make_shared<HostDevice>(), num_elements, range) {
  auto made = create(device_, num_elements, range);
  if (!made) throw std::bad_alloc();
  buffers_ = std::move((*made)->buffers_);
  trees_ = std::move((*made)->trees_);
}

std::span<float> TreeAccumulator::next() {
  TENAX_CHECK(!complete());
  return buffers_[num_trees_].span();
}

void TreeAccumulator::settle(std::size_t begin, std::size_t end) {
  TENAX_CHECK(!complete() && begin <= end && end <= num_elements_);
  Subtree newest{next_microbatch_, 0};
  for (std::size_t n = num_trees_; n > 0 && are_siblings(trees_[n - 1], newest); --n) {
    const std::span<float> left = buffers_[n - 1].span().subspan(begin, end - begin);
    device_->add(left, buffers_[n].span().subspan(begin, end - begin), left);
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
  device_->write(gradients, next());
  commit();
}

void TreeAccumulator::restart() {
  next_microbatch_ = range_.begin;
  num_trees_ = 0;
  num_settled_ = 0;
}

Status TreeAccumulator::fetch() {
  if (device_->host_visible()) return {};
  while (fetched_.size() < num_trees_) {
    TENAX_TRY(DeviceBuffer room, device_->allocate_host(num_elements_));
    fetched_.push_back(std::move(room));
  }
  for (std::size_t i = 0; i < num_trees_; ++i)
    device_->read(buffers_[i].span(), fetched_[i].span());
  return device_->status();
}

void TreeAccumulator::total(std::span<float> sum) const {
  TENAX_CHECK(complete() && range_.begin == 0 && num_trees_ > 0);
  device_->copy(buffers_[num_trees_ - 1].span(), sum);
  // The tree over all is the first subtree plus the tree over the rest.
  for (std::size_t i = num_trees_ - 1; i-- > 0;) device_->add(buffers_[i].span(), sum, sum);
}

}  // namespace tenax::compute
