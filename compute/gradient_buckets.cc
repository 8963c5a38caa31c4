#include "compute/gradient_buckets.h"

#include <algorithm>

#include "compute/aligned_buffer.h"
#include "compute/collectives.h"

namespace tenax::compute {
namespace {

/// Consecutive gradients of one section that belong together.
struct Run {
  int part = 0;
  GradientPiece all;
  const GradientSection* section = nullptr;
};

void add_run(const Run& run, std::size_t least_floats, std::vector<Run>& runs) {
  if (run.all.size() == 0) return;
  if (!runs.empty() && runs.back().all.size() < least_floats &&
      runs.back().section == run.section) {
    Run& last = runs.back();
    if (last.all.begin == run.all.end || last.all.end == run.all.begin) {
      last.all = {std::min(last.all.begin, run.all.begin), std::max(last.all.end, run.all.end)};
      last.part = run.part;
      return;
    }
  }
  runs.push_back(run);
}

std::vector<GradientPiece> pieces_of(const Run& run, int num_members) {
  std::vector<GradientPiece> pieces;
  if (run.section == nullptr) {
    const auto cuts = even_parts(run.all.size(), num_members, static_cast<int>(kAlignFloats));
    for (std::size_t m = 0; m + 1 < cuts.size(); ++m)
      pieces.push_back({run.all.begin + cuts[m], run.all.begin + cuts[m + 1]});
    return pieces;
  }
  const auto inside = [&](std::size_t at) { return std::clamp(at, run.all.begin, run.all.end); };
  for (std::size_t m = 0; m + 1 < run.section->cuts.size(); ++m)
    pieces.push_back({inside(run.section->cuts[m]), inside(run.section->cuts[m + 1])});
  return pieces;
}

/// The run in slices of which every member's piece is short enough.
void slice(const Run& run, const BucketOptions& o, std::vector<GradientBucket>& buckets) {
  const std::vector<GradientPiece> whole = pieces_of(run, o.num_members);
  std::size_t longest = 0;
  for (const GradientPiece& p : whole) longest = std::max(longest, p.size());
  for (std::size_t at = 0; at < longest; at += o.max_piece_floats) {
    GradientBucket bucket{run.part, {}};
    for (const GradientPiece& p : whole) {
      const std::size_t begin = std::min(p.begin + at, p.end);
      bucket.pieces.push_back({begin, std::min(begin + o.max_piece_floats, p.end)});
    }
    buckets.push_back(std::move(bucket));
  }
}

}  // namespace

std::vector<GradientBucket> cut_into_buckets(std::span<const GradientExtent> backward_order,
                                             const BucketOptions& options) {
  std::vector<Run> runs;
  for (const GradientExtent& e : backward_order) {
    const GradientPiece all{static_cast<std::size_t>(e.begin), static_cast<std::size_t>(e.end)};
    if (options.sections.empty()) add_run({e.part, all, nullptr}, options.least_floats, runs);
    for (const GradientSection& s : options.sections) {
      const GradientPiece inside{std::max(all.begin, s.cuts.front()),
                                 std::min(all.end, s.cuts.back())};
      if (inside.begin < inside.end) add_run({e.part, inside, &s}, options.least_floats, runs);
    }
  }
  std::vector<GradientBucket> buckets;
  for (const Run& run : runs) slice(run, options, buckets);
  return buckets;
}

}  // namespace tenax::compute
