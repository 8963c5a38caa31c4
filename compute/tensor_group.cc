#include "compute/tensor_group.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/check.h"
#include "compute/device_tree_reduce.h"
#include "compute/flight_recorder.h"
#include "compute/microbatch_tree.h"

namespace tenax::compute {

namespace {

constexpr std::uint64_t kReduceTag = 16ULL << 32;
constexpr std::uint64_t kGatherTag = 17ULL << 32;

/// Part `index` of every member, added up in order into the caller's data.
void add_parts(std::span<float> mine, std::span<const float* const> parts) {
  add_floats(parts[0], parts[1], mine.data(), mine.size());
  for (std::size_t m = 2; m < parts.size(); ++m)
    add_floats(mine.data(), parts[m], mine.data(), mine.size());
}

}  // namespace

OrderedReducer::OrderedReducer(std::size_t max_floats, int max_members)
    : workspace_(max_members == 1
                     ? 0
                     // Fewer members have larger parts, but not more floats in all.
                     : max_floats + static_cast<std::size_t>(max_members) * 3 * kAlignFloats) {
  const auto n = static_cast<std::size_t>(max_members);
  cuts_.reserve(n + 1);
  byte_cuts_.reserve(n + 1);
  addends_.reserve(n);
  transfers_.reserve(2 * n);
}

Status OrderedReducer::all_reduce(Communicator& comm, const Group& group, std::uint64_t tag,
                                  std::span<float> data) {
  if (group.size() == 1) return {};
  cuts_.resize(static_cast<std::size_t>(group.size()) + 1);
  even_parts(data.size(), kAlignFloats, cuts_);
  TENAX_RETURN_IF_ERROR(reduce_scatter(comm, group, tag, cuts_, data));
  return gather(comm, group, tag, cuts_, data);
}

Status OrderedReducer::reduce_scatter(Communicator& comm, const Group& group, std::uint64_t tag,
                                      std::span<const std::size_t> cuts, std::span<float> data) {
  if (group.size() == 1) return {};
  CollectiveRecord record(comm.flight_recorder(), "ordered_reduce_scatter", data.size_bytes(), tag);
  const Status added = add_own_part(comm, group, tag, cuts, data);
  transfers_.clear();  // also after an error: what is left must not touch the buffers later
  TENAX_RETURN_IF_ERROR(added);
  record.succeed();
  return {};
}

Status OrderedReducer::add_own_part(Communicator& comm, const Group& group, std::uint64_t tag,
                                    std::span<const std::size_t> cuts, std::span<float> data) {
  const int n = group.size();
  const auto part = [&](int i) { return data.subspan(cuts[i], cuts[i + 1] - cuts[i]); };
  const std::span<float> mine = part(group.index);
  const std::size_t stride = align_floats(mine.size());
  TENAX_CHECK(static_cast<std::size_t>(n) * stride <= workspace_.size());
  addends_.clear();
  for (int m = 0; m < n; ++m) {
    const std::span<float> place =
        workspace_.span().subspan(static_cast<std::size_t>(m) * stride, mine.size());
    addends_.push_back(place.data());
    if (m == group.index) {
      std::ranges::copy(mine, place.begin());  // the first sum may overwrite its own place
    } else if (!mine.empty()) {
      transfers_.push_back(comm.recv(group.ranks[m], tag, std::as_writable_bytes(place)));
    }
  }
  for (int i = 1; i < n; ++i) {
    const int m = (group.index + i) % n;
    if (!part(m).empty())
      transfers_.push_back(comm.send(group.ranks[m], tag, std::as_bytes(part(m))));
  }
  for (auto& transfer : transfers_) TENAX_RETURN_IF_ERROR(transfer->wait());
  add_parts(mine, addends_);
  return {};
}

Status OrderedReducer::gather(Communicator& comm, const Group& group, std::uint64_t tag,
                              std::span<const std::size_t> cuts, std::span<float> data) {
  byte_cuts_.resize(cuts.size());
  std::ranges::transform(cuts, byte_cuts_.begin(),
                         [](std::size_t cut) { return cut * sizeof(float); });
  return all_gather_parts(comm, group, tag, byte_cuts_, std::as_writable_bytes(data));
}

Status DeviceOrderedReducer::reduce_scatter(DevicePeers& peers, const Group& group,
                                            std::span<const std::size_t> cuts,
                                            std::span<float> data) {
  const int n = group.size();
  if (n == 1) return {};
  const auto part = [&](int i) { return data.subspan(cuts[i], cuts[i + 1] - cuts[i]); };
  const std::span<float> mine = part(group.index);
  const std::size_t stride = align_floats(mine.size());
  const std::size_t room = (static_cast<std::size_t>(n) + 1) * stride;
  if (parts_.size() < room) {
    TENAX_TRY(parts_, device_->allocate(room));
  }
  const auto place = [&](int m) {
    return m == group.index
               ? mine
               : parts_.span().subspan(static_cast<std::size_t>(m) * stride, mine.size());
  };
  transfers_.clear();
  for (int m = 0; m < n; ++m) {
    if (m == group.index) continue;
    const int peer = group.ranks[static_cast<std::size_t>(m)];
    if (!part(m).empty()) transfers_.push_back({TransferKind::kSend, peer, part(m)});
    if (!mine.empty()) transfers_.push_back({TransferKind::kRecv, peer, place(m)});
  }
  TENAX_RETURN_IF_ERROR(peers.exchange(transfers_));
  if (mine.empty()) return {};
  const std::span<float> sum =
      parts_.span().subspan(static_cast<std::size_t>(n) * stride, mine.size());
  device_->add(place(0), place(1), sum);
  for (int m = 2; m < n; ++m) device_->add(sum, place(m), sum);
  device_->copy(sum, mine);
  return {};
}

VocabularySum whole_vocabulary(std::span<const double> parts, std::int64_t rows, std::int64_t row) {
  const std::int64_t members = static_cast<std::int64_t>(parts.size()) / (2 * rows);
  const auto part_of = [&](std::int64_t m) {
    const auto at = static_cast<std::size_t>(2 * (m * rows + row));
    return VocabularySum{parts[at], parts[at + 1]};
  };
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t m = 0; m < members; ++m) largest = std::max(largest, part_of(m).log_sum);
  VocabularySum whole;
  double total = 0;
  for (std::int64_t m = 0; m < members; ++m) {
    total += std::exp(part_of(m).log_sum - largest);
    whole.at_target += part_of(m).at_target;
  }
  whole.log_sum = largest + std::log(total);
  return whole;
}

TensorGroup::TensorGroup(std::vector<int> ranks, int index, std::int64_t max_rows,
                         std::int64_t max_width, std::shared_ptr<Device> device)
    : ranks_(std::move(ranks)),
      index_(index),
      staging_(device),
      reducer_(static_cast<std::size_t>(max_token_rows(max_rows, part()) * part().size * max_width),
               part().size),
      device_reducer_(std::move(device)),
      cuts_(ranks_.size() + 1) {}

void TensorGroup::use(Communicator& comm) {
  comm_ = &comm;
  status_ = {};
}

void TensorGroup::cut_rows(std::span<const float> all, std::int64_t width) {
  const auto size = static_cast<std::int64_t>(all.size());
  TENAX_CHECK(comm_ != nullptr && size % width == 0);
  for (std::size_t m = 0; m < cuts_.size(); ++m)
    cuts_[m] = static_cast<std::size_t>(
        token_rows(size / width, {part().size, static_cast<int>(m)}).begin * width);
}

void TensorGroup::reduce_scatter_rows(std::span<float> all, std::int64_t width) {
  cut_rows(all, width);
  if (!status_) return;
  const KernelSpan span(trace_, TraceKind::kTensorReduce);
  status_ = reduce_scatter(all);
}

Status TensorGroup::reduce_scatter(std::span<float> all) {
  if (peers_ != nullptr) return device_reducer_.reduce_scatter(*peers_, group(), cuts_, all);
  TENAX_TRY(const std::span<float> host, staging_.view(all));
  TENAX_RETURN_IF_ERROR(staging_.fetch(all, host));
  TENAX_RETURN_IF_ERROR(reducer_.reduce_scatter(*comm_, group(), kReduceTag, cuts_, host));
  return staging_.store(own_part(host), own_part(all));
}

void TensorGroup::gather_rows(std::span<float> all, std::int64_t width) {
  cut_rows(all, width);
  if (!status_) return;
  const KernelSpan span(trace_, TraceKind::kTensorGather);
  status_ = gather(all);
}

Status TensorGroup::gather(std::span<float> all) {
  if (peers_ != nullptr) return all_gather_on(*peers_, group(), cuts_, all);
  TENAX_TRY(const std::span<float> host, staging_.view(all));
  TENAX_RETURN_IF_ERROR(staging_.fetch(own_part(all), own_part(host)));
  TENAX_RETURN_IF_ERROR(reducer_.gather(*comm_, group(), kGatherTag, cuts_, host));
  return staging_.store(host, all);
}

void TensorGroup::all_gather(std::span<const double> mine, std::span<double> all) {
  TENAX_CHECK(comm_ != nullptr);
  if (!status_) return;
  const KernelSpan span(trace_, TraceKind::kTensorGather);
  status_ = compute::all_gather(*comm_, group(), kGatherTag, std::as_bytes(mine),
                                std::as_writable_bytes(all));
}

}  // namespace tenax::compute
