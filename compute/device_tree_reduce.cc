#include "compute/device_tree_reduce.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "compute/aligned_buffer.h"

namespace tenax::compute {

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
}

void DeviceTreeReducer::abandon() {
  flights_.clear();
  num_summed_ = used_ = 0;
}

Status DeviceTreeReducer::start(DevicePeers& peers, const Group& group, const TreeReduction& r) {
  TENAX_CHECK(group.index == options_.index && r.pieces.size() == options_.ranges.size());
  TENAX_CHECK(r.out.size() == r.mine->num_elements());
  const GradientPiece& own = own_piece(r);
  const std::size_t wanted = num_remote_ * own.size();
  if (used_ + wanted > arrived_.size()) {
    // What is begun from here on waits for these sums, so their room is free.
    TENAX_RETURN_IF_ERROR(sum_arrived(peers, group));
    used_ = 0;
  }
  if (wanted > arrived_.size()) {
    arrived_ = {};
    TENAX_TRY(arrived_, device_->allocate(std::max(wanted, wanted_floats_)));
  }
  Flight flight{&r, used_, {}};
  if (options_.trace != nullptr) flight.started = options_.trace->clock().now();
  used_ += wanted;
  transfers_.clear();
  for (const TreeSource& source : sources_) {
    if (own.size() == 0 || source.member == group.index) continue;
    transfers_.push_back({TransferKind::kRecv, group.ranks[static_cast<std::size_t>(source.member)],
                          arrived(flight, source.remote)});
  }
  for (int i = 1; i < group.size(); ++i) {
    const auto member = static_cast<std::size_t>((group.index + i) % group.size());
    const GradientPiece& piece = r.pieces[member];
    if (piece.size() == 0) continue;
    for (const TreeSource& source : sources_) {
      if (source.member != group.index) continue;
      transfers_.push_back({TransferKind::kSend, group.ranks[member],
                            r.mine->on_device(source.local).subspan(piece.begin, piece.size())});
    }
  }
  flights_.push_back(flight);
  return peers.begin(transfers_);
}

Status DeviceTreeReducer::sum_arrived(DevicePeers& peers, const Group& group) {
  if (num_summed_ == flights_.size()) return {};
  TENAX_RETURN_IF_ERROR(peers.join());
  std::vector<std::span<const float>> inputs;
  for (; num_summed_ < flights_.size(); ++num_summed_) {
    const Flight& flight = flights_[num_summed_];
    const TreeReduction& r = *flight.reduction;
    const GradientPiece& own = own_piece(r);
    if (own.size() == 0) continue;
    inputs.clear();
    for (const TreeSource& source : sources_) {
      if (source.member == group.index)
        inputs.push_back(r.mine->on_device(source.local).subspan(own.begin, own.size()));
      else
        inputs.push_back(arrived(flight, source.remote));
    }
    TENAX_RETURN_IF_ERROR(
        sum_subtrees_on(*device_, trees_, inputs, scratch_, r.out.subspan(own.begin, own.size())));
  }
  return {};
}

Status DeviceTreeReducer::gather(DevicePeers& peers, const Group& group) {
  transfers_.clear();
  for (const Flight& flight : flights_) {
    const TreeReduction& r = *flight.reduction;
    if (!r.gather) continue;
    const auto add = [&](TransferKind kind, int peer, int owner) {
      const GradientPiece& piece = r.pieces[static_cast<std::size_t>(owner)];
      if (piece.size() > 0)
        transfers_.push_back({kind, group.ranks[static_cast<std::size_t>(peer)],
                              r.out.subspan(piece.begin, piece.size())});
    };
    for (int i = 1; i < group.size(); ++i) {
      const int from = (group.index + group.size() - i) % group.size();
      add(TransferKind::kSend, (group.index + i) % group.size(), group.index);
      add(TransferKind::kRecv, from, from);
    }
  }
  return transfers_.empty() ? Status() : peers.exchange(transfers_);
}

Status DeviceTreeReducer::finish(DevicePeers& peers, const Group& group) {
  const auto end_all = [&]() -> Status {
    TENAX_RETURN_IF_ERROR(sum_arrived(peers, group));
    TENAX_RETURN_IF_ERROR(gather(peers, group));
    if (options_.trace == nullptr) return {};
    for (const Flight& flight : flights_)
      options_.trace->add({.index = flight.reduction->number,
                           .bytes = reduction_bytes(*flight.reduction),
                           .kind = TraceKind::kReduce,
                           .begin = flight.started});
    return {};
  };
  const Status status = end_all();
  abandon();
  return status;
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
