#include "compute/tree_reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "compute/flight_recorder.h"

namespace tenax::compute {
namespace {

constexpr std::size_t kMinSegment = 4096;
constexpr std::size_t kMaxSegment = 262144;

/// Elements [begin, end) of a part that travel in one segment; empty behind the part's end.
std::pair<std::size_t, std::size_t> segment_of(std::span<const std::size_t> parts, int member,
                                               std::size_t segment, std::size_t segment_elements) {
  const std::size_t begin = std::min(parts[member] + segment * segment_elements, parts[member + 1]);
  return {begin, std::min(begin + segment_elements, parts[member + 1])};
}

}  // namespace

Result<TreeReducer> TreeReducer::create(TreeReduceOptions options) {
  std::vector<MicrobatchRange> sorted;
  for (const MicrobatchRange range : options.ranges) {
    if (range.size() != 0) sorted.push_back(range);
  }
  std::ranges::sort(sorted, {}, &MicrobatchRange::begin);
  int covered = 0;
  for (const MicrobatchRange range : sorted) {
    if (range.begin != covered || range.size() < 0) {
      return make_error(ErrorCode::kInvalidArgument,
                        fmt::format("tree reduce: expected a range from microbatch {} on, got "
                                    "[{}, {})",
                                    covered, range.begin, range.end));
    }
    covered = range.end;
  }
  if (covered != options.num_microbatches || covered == 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("tree reduce: ranges cover {} microbatches, expected {}", covered,
                                  options.num_microbatches));
  }
  if (options.index < 0 || options.index >= static_cast<int>(options.ranges.size())) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("tree reduce: member {} of a group of {}", options.index,
                                  options.ranges.size()));
  }
  return TreeReducer(std::move(options));
}

std::size_t plan_tree_sources(const TreeReduceOptions& options, std::vector<Subtree>& trees,
                              std::vector<TreeSource>& sources) {
  std::size_t num_remote = 0;
  std::vector<std::pair<Subtree, TreeSource>> all;
  for (int member = 0; member < static_cast<int>(options.ranges.size()); ++member) {
    const auto mine = maximal_subtrees(options.ranges[static_cast<std::size_t>(member)]);
    for (std::size_t local = 0; local < mine.size(); ++local) {
      const std::size_t remote = member == options.index ? 0 : num_remote++;
      all.push_back({mine[local], {member, local, remote}});
    }
  }
  std::ranges::sort(all, {}, [](const auto& entry) { return entry.first.begin; });
  for (const auto& [tree, source] : all) {
    trees.push_back(tree);
    sources.push_back(source);
  }
  return num_remote;
}

TreeReducer::TreeReducer(TreeReduceOptions options) : options_(std::move(options)) {
  const int n = static_cast<int>(options_.ranges.size());
  num_remote_ = plan_tree_sources(options_, trees_, sources_);
  // The segment must be the same on all members, so it is cut to the member that receives most:
  // nobody more than all.
  const std::size_t fitting =
      options_.max_workspace_bytes / sizeof(float) / (2 * trees_.size()) / 64 * 64;
  segment_elements_ = std::clamp(fitting, kMinSegment, kMaxSegment);
  workspace_.resize(2 * num_remote_ * segment_elements_);
  const std::size_t num_own = trees_.size() - num_remote_;
  for (auto& transfers : transfers_) transfers.reserve(num_remote_ + num_own * n);
  inputs_.resize(trees_.size());
  part_bytes_.resize(n + 1);
}

void TreeReducer::post_segment(Communicator& comm, const Group& group, std::uint64_t tag,
                               const TreeAccumulator& mine, std::span<const std::size_t> parts,
                               std::size_t segment) {
  Transfers& transfers = transfers_[segment % 2];
  transfers.clear();
  const auto [begin, end] = segment_of(parts, group.index, segment, segment_elements_);
  for (const TreeSource& source : sources_) {
    if (begin == end || source.member == group.index) continue;
    transfers.push_back(comm.recv(
        group.ranks[source.member], tag,
        std::as_writable_bytes(std::span(workspace(segment % 2, source.remote), end - begin))));
  }
  // Beginning with the next member, so that not all send to the same one first.
  for (int i = 1; i < group.size(); ++i) {
    const int member = (group.index + i) % group.size();
    const auto [from, to] = segment_of(parts, member, segment, segment_elements_);
    if (from == to) continue;
    for (std::size_t t = 0; t < mine.subtrees().size(); ++t) {
      transfers.push_back(comm.send(group.ranks[member], tag,
                                    std::as_bytes(std::span(mine.sums(t) + from, to - from))));
    }
  }
}

Status TreeReducer::finish_segment(const TreeAccumulator& mine, std::span<const std::size_t> parts,
                                   std::size_t segment, std::span<float> out) {
  for (auto& transfer : transfers_[segment % 2]) TENAX_RETURN_IF_ERROR(transfer->wait());
  const auto [begin, end] = segment_of(parts, options_.index, segment, segment_elements_);
  if (begin == end) return {};
  for (std::size_t t = 0; t < sources_.size(); ++t) {
    inputs_[t] = sources_[t].member == options_.index ? mine.sums(sources_[t].local) + begin
                                                      : workspace(segment % 2, sources_[t].remote);
  }
  sum_subtrees(trees_, inputs_, out.data() + begin, end - begin);
  return {};
}

Status TreeReducer::reduce_scatter(Communicator& comm, const Group& group, std::uint64_t tag,
                                   const TreeAccumulator& mine, std::span<const std::size_t> parts,
                                   std::span<float> out) {
  const int n = static_cast<int>(options_.ranges.size());
  TENAX_CHECK(group.size() == n && group.index == options_.index);
  TENAX_CHECK(mine.complete() && mine.range() == options_.ranges[group.index]);
  TENAX_CHECK(static_cast<int>(parts.size()) == n + 1 && parts[n] <= out.size());
  TENAX_CHECK(out.size() == mine.num_elements());
  CollectiveRecord record(comm.flight_recorder(), "tree_reduce_scatter", std::as_bytes(out).size(),
                          tag);
  std::size_t longest = 0;
  for (int i = 0; i < n; ++i) longest = std::max(longest, parts[i + 1] - parts[i]);
  const std::size_t num_segments = (longest + segment_elements_ - 1) / segment_elements_;
  Status status;
  for (std::size_t segment = 0; status && segment < num_segments; ++segment) {
    post_segment(comm, group, tag, mine, parts, segment);
    if (segment > 0) status = finish_segment(mine, parts, segment - 1, out);
  }
  if (status && num_segments > 0) status = finish_segment(mine, parts, num_segments - 1, out);
  // Also after an error: what is left must not touch the buffers later.
  for (auto& transfers : transfers_) transfers.clear();
  if (status) record.succeed();
  return status;
}

Status TreeReducer::all_reduce(Communicator& comm, const Group& group, std::uint64_t tag,
                               const TreeAccumulator& mine, std::span<const std::size_t> parts,
                               std::span<float> out) {
  CollectiveRecord record(comm.flight_recorder(), "tree_all_reduce", std::as_bytes(out).size(),
                          tag);
  TENAX_RETURN_IF_ERROR(reduce_scatter(comm, group, tag, mine, parts, out));
  std::ranges::transform(parts, part_bytes_.begin(),
                         [](std::size_t part) { return part * sizeof(float); });
  TENAX_RETURN_IF_ERROR(
      all_gather_parts(comm, group, tag, part_bytes_, std::as_writable_bytes(out)));
  record.succeed();
  return {};
}

}  // namespace tenax::compute
