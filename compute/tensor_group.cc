#include "compute/tensor_group.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
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

OrderedAllReduce::OrderedAllReduce(std::size_t max_floats, int max_members)
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

Status OrderedAllReduce::run(Communicator& comm, const Group& group, std::uint64_t tag,
                             std::span<float> data) {
  const int n = group.size();
  if (n == 1) return {};
  CollectiveRecord record(comm.flight_recorder(), "ordered_all_reduce", data.size_bytes(), tag);
  cuts_.resize(static_cast<std::size_t>(n) + 1);
  even_parts(data.size(), kAlignFloats, cuts_);
  const Status reduced = reduce_own_part(comm, group, tag, data);
  transfers_.clear();  // also after an error: what is left must not touch the buffers later
  TENAX_RETURN_IF_ERROR(reduced);
  byte_cuts_.resize(cuts_.size());
  std::ranges::transform(cuts_, byte_cuts_.begin(),
                         [](std::size_t cut) { return cut * sizeof(float); });
  TENAX_RETURN_IF_ERROR(
      all_gather_parts(comm, group, tag, byte_cuts_, std::as_writable_bytes(data)));
  record.succeed();
  return {};
}

Status OrderedAllReduce::reduce_own_part(Communicator& comm, const Group& group, std::uint64_t tag,
                                         std::span<float> data) {
  const int n = group.size();
  const auto part = [&](int i) { return data.subspan(cuts_[i], cuts_[i + 1] - cuts_[i]); };
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

TensorGroup::TensorGroup(std::vector<int> ranks, int index, std::size_t max_floats)
    : ranks_(std::move(ranks)),
      index_(index),
      all_reduce_(max_floats, static_cast<int>(ranks_.size())) {}

void TensorGroup::use(Communicator& comm) {
  comm_ = &comm;
  status_ = {};
}

void TensorGroup::all_reduce(std::span<float> data) {
  TENAX_CHECK(comm_ != nullptr);
  if (!status_) return;
  const KernelSpan span(trace_, TraceKind::kTensorReduce);
  status_ = all_reduce_.run(*comm_, {ranks_, index_}, kReduceTag, data);
}

void TensorGroup::all_gather(std::span<const double> mine, std::span<double> all) {
  TENAX_CHECK(comm_ != nullptr);
  if (!status_) return;
  const KernelSpan span(trace_, TraceKind::kTensorGather);
  status_ = compute::all_gather(*comm_, {ranks_, index_}, kGatherTag, std::as_bytes(mine),
                                std::as_writable_bytes(all));
}

}  // namespace tenax::compute
