#include "compute/tensor_group.h"

#include <array>
#include <memory>
#include <utility>

#include "common/check.h"
#include "compute/flight_recorder.h"
#include "compute/microbatch_tree.h"

namespace tenax::compute {

namespace {

constexpr std::uint64_t kReduceTag = 16ULL << 32;
constexpr std::uint64_t kGatherTag = 17ULL << 32;

std::size_t largest_part(std::size_t num_floats, int num_members) {
  return align_floats(num_floats / static_cast<std::size_t>(num_members) + kAlignFloats);
}

/// Part `index` of every member, added up in order into the caller's data.
void add_parts(std::span<float> mine, std::span<const float* const> parts) {
  add_floats(parts[0], parts[1], mine.data(), mine.size());
  for (std::size_t m = 2; m < parts.size(); ++m)
    add_floats(mine.data(), parts[m], mine.data(), mine.size());
}

}  // namespace

std::size_t all_reduce_workspace(std::size_t num_floats, int num_members) {
  // One part of each member, the caller's own copy included: the first sum may overwrite its place.
  return num_members == 1
             ? 0
             : static_cast<std::size_t>(num_members) * largest_part(num_floats, num_members);
}

Status all_reduce_sum(Communicator& comm, const Group& group, std::uint64_t tag,
                      std::span<float> data, std::span<float> workspace) {
  const int n = group.size();
  if (n == 1) return {};
  TENAX_CHECK(workspace.size() >= all_reduce_workspace(data.size(), n));
  CollectiveRecord record(comm.flight_recorder(), "all_reduce_sum", data.size_bytes(), tag);
  const std::vector<std::size_t> cuts = even_parts(data.size(), n, kAlignFloats);
  const auto part = [&](int i) { return data.subspan(cuts[i], cuts[i + 1] - cuts[i]); };
  const std::span<float> mine = part(group.index);
  const std::size_t stride = largest_part(data.size(), n);
  std::vector<const float*> addends;
  std::vector<std::unique_ptr<Transfer>> transfers;
  for (int m = 0; m < n; ++m) {
    const std::span<float> place =
        workspace.subspan(static_cast<std::size_t>(m) * stride, mine.size());
    addends.push_back(place.data());
    if (m == group.index) {
      std::ranges::copy(mine, place.begin());
    } else if (!mine.empty()) {
      transfers.push_back(comm.recv(group.ranks[m], tag, std::as_writable_bytes(place)));
    }
  }
  for (int i = 1; i < n; ++i) {
    const int m = (group.index + i) % n;
    if (!part(m).empty())
      transfers.push_back(comm.send(group.ranks[m], tag, std::as_bytes(part(m))));
  }
  for (auto& transfer : transfers) TENAX_RETURN_IF_ERROR(transfer->wait());
  add_parts(mine, addends);
  std::vector<std::size_t> offsets;
  for (const std::size_t cut : cuts) offsets.push_back(cut * sizeof(float));
  TENAX_RETURN_IF_ERROR(all_gather_parts(comm, group, tag, offsets, std::as_writable_bytes(data)));
  record.succeed();
  return {};
}

TensorGroup::TensorGroup(std::vector<int> ranks, int index, std::size_t max_floats)
    : ranks_(std::move(ranks)),
      index_(index),
      workspace_(all_reduce_workspace(max_floats, static_cast<int>(ranks_.size()))) {}

void TensorGroup::use(Communicator& comm) {
  comm_ = &comm;
  status_ = {};
}

void TensorGroup::all_reduce(std::span<float> data) {
  TENAX_CHECK(comm_ != nullptr);
  if (!status_) return;
  status_ = all_reduce_sum(*comm_, {ranks_, index_}, kReduceTag, data, workspace_.span());
}

void TensorGroup::all_gather(std::span<const double> mine, std::span<double> all) {
  TENAX_CHECK(comm_ != nullptr);
  if (!status_) return;
  status_ = compute::all_gather(*comm_, {ranks_, index_}, kGatherTag, std::as_bytes(mine),
                                std::as_writable_bytes(all));
}

}  // namespace tenax::compute
