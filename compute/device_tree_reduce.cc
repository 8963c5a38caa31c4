#include "compute/device_tree_reduce.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "compute/aligned_buffer.h"

namespace tenax::compute {
namespace {

/// Floats of the segments that arrive at once.
constexpr std::size_t kWorkspaceFloats = std::size_t{16} << 20;
constexpr std::size_t kMinSegment = 4096;
constexpr std::size_t kMaxSegment = std::size_t{4} << 20;

struct Stretch {
  std::size_t begin = 0;
  std::size_t end = 0;
};

}  // namespace

Status sum_subtrees_on(Device& device, std::span<const Subtree> trees,
                       std::span<const std::span<const float>> inputs,
                       std::vector<DeviceBuffer>& scratch, std::span<float> sum) {
  TENAX_CHECK(!trees.empty() && trees.size() == inputs.size());
  struct Partial {
    Subtree tree;
    std::span<const float> values;
  };
  std::vector<Partial> stack;
  // What stands at depth d of the stack, once it is a sum, lies in scratch[d]; the last in `sum`.
  const auto merge_top = [&](bool last) -> Status {
    const Partial right = stack.back();
    stack.pop_back();
    const std::size_t depth = stack.size() - 1;
    std::span<float> to = sum;
    if (!last || depth > 0) {
      while (scratch.size() <= depth || scratch[depth].size() < sum.size()) {
        if (scratch.size() <= depth) scratch.resize(depth + 1);
        TENAX_TRY(scratch[depth], device.allocate(sum.size()));
      }
      to = scratch[depth].span().first(sum.size());
    }
    Partial& left = stack.back();
    device.add(left.values, right.values, to);
    left = {{left.tree.begin, left.tree.level + 1}, to};
    return {};
  };
  for (std::size_t t = 0; t < trees.size(); ++t) {
    TENAX_CHECK(inputs[t].size() == sum.size());
    stack.push_back({trees[t], inputs[t]});
    while (stack.size() > 1 && are_siblings(stack[stack.size() - 2].tree, stack.back().tree))
      TENAX_RETURN_IF_ERROR(merge_top(t + 1 == trees.size()));
  }
  while (stack.size() > 1) TENAX_RETURN_IF_ERROR(merge_top(true));
  if (stack.front().values.data() != sum.data()) device.copy(stack.front().values, sum);
  return {};
}

DeviceTreeReducer::DeviceTreeReducer(std::shared_ptr<Device> device, TreeReduceOptions options)
    : device_(std::move(device)), options_(std::move(options)) {
  num_remote_ = plan_tree_sources(options_, trees_, sources_);
  const std::size_t fitting =
      kWorkspaceFloats / std::max<std::size_t>(num_remote_, 1) / kAlignFloats * kAlignFloats;
  segment_elements_ = std::clamp(fitting, kMinSegment, kMaxSegment);
}

Status DeviceTreeReducer::reduce_segment(DevicePeers& peers, const Group& group,
                                         const TreeAccumulator& mine,
                                         std::span<const std::size_t> parts, std::size_t segment,
                                         std::span<float> out) {
  const auto stretch_of = [&](int member) {
    const auto m = static_cast<std::size_t>(member);
    const std::size_t begin = std::min(parts[m] + segment * segment_elements_, parts[m + 1]);
    return Stretch{begin, std::min(begin + segment_elements_, parts[m + 1])};
  };
  const Stretch own = stretch_of(group.index);
  const std::size_t begin = own.begin;
  const std::size_t end = own.end;
  const auto arrived = [&](std::size_t remote) {
    return arrived_.span().subspan(remote * segment_elements_, end - begin);
  };
  std::vector<DeviceTransfer> transfers;
  for (const TreeSource& source : sources_) {
    if (begin == end || source.member == group.index) continue;
    transfers.push_back({TransferKind::kRecv, group.ranks[static_cast<std::size_t>(source.member)],
                         arrived(source.remote)});
  }
  for (int i = 1; i < group.size(); ++i) {
    const int member = (group.index + i) % group.size();
    const auto [from, to] = stretch_of(member);
    if (from == to) continue;
    for (std::size_t t = 0; t < mine.subtrees().size(); ++t)
      transfers.push_back({TransferKind::kSend, group.ranks[static_cast<std::size_t>(member)],
                           mine.on_device(t).subspan(from, to - from)});
  }
  TENAX_RETURN_IF_ERROR(peers.exchange(transfers));
  if (begin == end) return {};
  std::vector<std::span<const float>> inputs;
  for (const TreeSource& source : sources_) {
    if (source.member == group.index)
      inputs.push_back(mine.on_device(source.local).subspan(begin, end - begin));
    else
      inputs.push_back(arrived(source.remote));
  }
  return sum_subtrees_on(*device_, trees_, inputs, scratch_, out.subspan(begin, end - begin));
}

Status DeviceTreeReducer::reduce_scatter(DevicePeers& peers, const Group& group,
                                         const TreeAccumulator& mine,
                                         std::span<const std::size_t> parts, std::span<float> out) {
  TENAX_CHECK(mine.complete() && group.index == options_.index);
  TENAX_CHECK(parts.size() == static_cast<std::size_t>(group.size()) + 1);
  if (arrived_.size() == 0 && num_remote_ > 0) {
    TENAX_TRY(arrived_, device_->allocate(num_remote_ * segment_elements_));
  }
  std::size_t longest = 0;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i)
    longest = std::max(longest, parts[i + 1] - parts[i]);
  for (std::size_t s = 0; s * segment_elements_ < longest; ++s)
    TENAX_RETURN_IF_ERROR(reduce_segment(peers, group, mine, parts, s, out));
  return {};
}

Status DeviceTreeReducer::all_reduce(DevicePeers& peers, const Group& group,
                                     const TreeAccumulator& mine,
                                     std::span<const std::size_t> parts, std::span<float> out) {
  TENAX_RETURN_IF_ERROR(reduce_scatter(peers, group, mine, parts, out));
  return all_gather_on(peers, group, parts, out);
}

Status all_gather_on(DevicePeers& peers, const Group& group, std::span<const std::size_t> parts,
                     std::span<float> buffer) {
  const auto part = [&](int member) {
    const auto m = static_cast<std::size_t>(member);
    return buffer.subspan(parts[m], parts[m + 1] - parts[m]);
  };
  std::vector<DeviceTransfer> transfers;
  for (int i = 1; i < group.size(); ++i) {
    const int to = (group.index + i) % group.size();
    const int from = (group.index + group.size() - i) % group.size();
    if (!part(group.index).empty())
      transfers.push_back(
          {TransferKind::kSend, group.ranks[static_cast<std::size_t>(to)], part(group.index)});
    if (!part(from).empty())
      transfers.push_back(
          {TransferKind::kRecv, group.ranks[static_cast<std::size_t>(from)], part(from)});
  }
  return peers.exchange(transfers);
}

}  // namespace tenax::compute
