// How a rank's gradients are cut into buckets that are reduced over the replicas one by one, each
// as soon as the last backward has ended with it. Pure functions of the layout: equal on all
// replicas of a stage.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "compute/optimizer_shards.h"
#include "compute/stage_layout.h"
#include "compute/tree_reduce.h"

namespace tenax::compute {

struct GradientBucket {
  int part = 0;                       ///< of the backward after which all of it is final
  std::vector<GradientPiece> pieces;  ///< by replica: what it sums, in the chunk's gradient buffer
};

struct BucketOptions {
  int num_members = 1;
  /// What members sum, with cuts in the chunk's gradient buffer; empty: even pieces of each bucket,
  /// for every member is to have everything.
  std::span<const GradientSection> sections;
  std::size_t least_floats = 0;            ///< neighbours that are smaller travel together
  std::size_t max_piece_floats = 1 << 20;  ///< of a member, at most; multiple of kAlignFloats
};

/// In the order in which a backward ends with them.
std::vector<GradientBucket> cut_into_buckets(std::span<const GradientExtent> backward_order,
                                             const BucketOptions& options);

}  // namespace tenax::compute
