#include "compute/tree_reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "compute/flight_recorder.h"

namespace tenax::compute {
namespace {

constexpr std::size_t kMinPiece = 4096;
constexpr std::size_t kMaxPiece = std::size_t{1} << 22;

}  // namespace

std::uint64_t reduction_bytes(const TreeReduction& reduction) {
  std::uint64_t floats = 0;
  for (const GradientPiece& piece : reduction.pieces) floats += piece.size();
  return floats * sizeof(float);
}

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
  num_remote_ = plan_tree_sources(options_, trees_, sources_);
  inputs_.resize(trees_.size());
}

std::size_t TreeReducer::max_piece() const {
  // The same on all members, so it is cut to the member that receives most: nobody more than all.
  const std::size_t fitting = options_.max_workspace_bytes / sizeof(float) / (2 * trees_.size()) /
                              kAlignFloats * kAlignFloats;
  return std::clamp(fitting, kMinPiece, kMaxPiece);
}

std::size_t TreeReducer::wanted_bytes(std::span<const TreeReduction> reductions) const {
  std::size_t floats = 0;
  for (const TreeReduction& r : reductions) floats += num_remote_ * own_piece(r).size();
  return floats * sizeof(float);
}

void TreeReducer::reserve(std::size_t bytes, std::size_t num_reductions) {
  // A single reduction always fits.
  const std::size_t least = num_remote_ * max_piece() * sizeof(float);
  const std::size_t limited = std::min(bytes, std::max(options_.max_workspace_bytes, least));
  flights_.clear();
  if (limited > workspace_bytes()) workspace_ = AlignedBuffer(limited / sizeof(float));
  const auto n = options_.ranges.size();
  flights_.all.resize(std::max(num_reductions, flights_.all.size()));
  for (Flight& flight : flights_.all)
    flight.transfers.reserve(std::max(num_remote_ + trees_.size() * n, 2 * n));
}

void TreeReducer::Flights::clear() {
  for (std::size_t i = 0; i < num; ++i) all[i].transfers.clear();
  num = num_summed = 0;
}

bool TreeReducer::take_workspace(std::size_t floats, Flight& flight) const {
  // A ring: the flights that are not summed lie from the oldest's begin to the newest's end.
  flight.begin = flight.end = 0;
  if (floats == 0) return true;
  std::size_t first = flights_.num_summed;
  while (first < flights_.num && flights_.all[first].begin == flights_.all[first].end) ++first;
  std::size_t begin = 0;
  if (first < flights_.num) {
    std::size_t last = flights_.num - 1;
    while (flights_.all[last].begin == flights_.all[last].end) --last;
    const std::size_t head = flights_.all[last].end;
    const std::size_t tail = flights_.all[first].begin;
    if (head > tail) {
      begin = head + floats <= workspace_.size() ? head : 0;
      if (begin == 0 && floats >= tail) return false;
    } else {
      begin = head;
      if (head + floats >= tail) return false;
    }
  }
  TENAX_CHECK(begin + floats <= workspace_.size());
  flight.begin = begin;
  flight.end = begin + floats;
  return true;
}

Status TreeReducer::start(Communicator& comm, const Group& group, const TreeReduction& r) {
  TENAX_CHECK(group.size() == static_cast<int>(options_.ranges.size()) &&
              group.index == options_.index);
  TENAX_CHECK(r.pieces.size() == options_.ranges.size() && r.out.size() == r.mine->num_elements());
  TENAX_CHECK(r.mine->range() == options_.ranges[static_cast<std::size_t>(group.index)]);
  TENAX_CHECK(flights_.num < flights_.all.size());
  Flight& flight = flights_.all[flights_.num];
  flight.reduction = &r;
  if (options_.trace != nullptr) flight.started = options_.trace->clock().now();
  while (!take_workspace(num_remote_ * own_piece(r).size(), flight))
    TENAX_RETURN_IF_ERROR(sum_oldest(comm, group));
  ++flights_.num;
  post(comm, group, flight);
  return {};
}

void TreeReducer::post(Communicator& comm, const Group& group, Flight& flight) {
  const TreeReduction& r = *flight.reduction;
  CollectiveRecord record(comm.flight_recorder(), "tree_reduce", r.out.size_bytes(), r.tag);
  const std::size_t size = own_piece(r).size();
  for (const TreeSource& source : sources_) {
    if (size == 0 || source.member == group.index) continue;
    const std::span<float> place =
        workspace_.span().subspan(flight.begin + source.remote * size, size);
    flight.transfers.push_back(comm.recv(group.ranks[static_cast<std::size_t>(source.member)],
                                         r.tag, std::as_writable_bytes(place)));
  }
  // Beginning with the next member, so that not all send to the same one first.
  for (int i = 1; i < group.size(); ++i) {
    const auto member = static_cast<std::size_t>((group.index + i) % group.size());
    const GradientPiece& piece = r.pieces[member];
    if (piece.size() == 0) continue;
    for (const TreeSource& source : sources_) {
      if (source.member != group.index) continue;
      const std::span<const float> sums{r.mine->sums(source.local) + piece.begin, piece.size()};
      flight.transfers.push_back(comm.send(group.ranks[member], r.tag, std::as_bytes(sums)));
    }
  }
  record.succeed();
}

Status TreeReducer::sum_oldest(Communicator& comm, const Group& group) {
  Flight& flight = flights_.all[flights_.num_summed];
  const TreeReduction& r = *flight.reduction;
  CollectiveRecord record(comm.flight_recorder(), "tree_reduce", r.out.size_bytes(), r.tag);
  for (auto& transfer : flight.transfers) TENAX_RETURN_IF_ERROR(transfer->wait());
  flight.transfers.clear();
  if (const GradientPiece& piece = own_piece(r); piece.size() > 0) {
    for (std::size_t t = 0; t < sources_.size(); ++t) {
      inputs_[t] = sources_[t].member == group.index
                       ? r.mine->sums(sources_[t].local) + piece.begin
                       : workspace_.data() + flight.begin + sources_[t].remote * piece.size();
    }
    sum_subtrees(trees_, inputs_, r.out.data() + piece.begin, piece.size());
  }
  if (r.gather) post_gather(comm, group, flight);
  ++flights_.num_summed;
  record.succeed();
  return {};
}

void TreeReducer::post_gather(Communicator& comm, const Group& group, Flight& flight) {
  const TreeReduction& r = *flight.reduction;
  for (int i = 1; i < group.size(); ++i) {
    const auto member = static_cast<std::size_t>((group.index + i) % group.size());
    const GradientPiece& piece = r.pieces[member];
    if (piece.size() == 0) continue;
    flight.transfers.push_back(
        comm.recv(group.ranks[member], r.tag,
                  std::as_writable_bytes(r.out.subspan(piece.begin, piece.size()))));
  }
  const GradientPiece& mine = own_piece(r);
  for (int i = 1; i < group.size() && mine.size() > 0; ++i) {
    const auto member = static_cast<std::size_t>((group.index + i) % group.size());
    flight.transfers.push_back(comm.send(group.ranks[member], r.tag,
                                         std::as_bytes(r.out.subspan(mine.begin, mine.size()))));
  }
}

Status TreeReducer::finish(Communicator& comm, const Group& group) {
  const auto end_all = [&]() -> Status {
    while (flights_.num_summed < flights_.num) TENAX_RETURN_IF_ERROR(sum_oldest(comm, group));
    for (std::size_t i = 0; i < flights_.num; ++i) {
      Flight& flight = flights_.all[i];
      CollectiveRecord record(comm.flight_recorder(), "tree_gather",
                              flight.reduction->out.size_bytes(), flight.reduction->tag);
      for (auto& transfer : flight.transfers) TENAX_RETURN_IF_ERROR(transfer->wait());
      if (options_.trace != nullptr)
        options_.trace->add({.index = flight.reduction->number,
                             .bytes = reduction_bytes(*flight.reduction),
                             .kind = TraceKind::kReduce,
                             .begin = flight.started});
      record.succeed();
    }
    return {};
  };
  Status status = end_all();
  flights_.clear();  // also after an error: what is left must not touch the buffers later
  return status;
}

}  // namespace tenax::compute
