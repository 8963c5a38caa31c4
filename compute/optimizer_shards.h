// Who updates what when the optimizer's state is sharded over data-parallel replicas (ZeRO-1:
// Rajbhandari et al. 2020, doi:10.1109/SC41405.2020.00024). The flat buffers of a stage are cut
// into one stretch a replica: it reduces the gradients there, keeps AdamW's moments of it and
// updates the weights of it. Cuts lie at the chunks of the gradient norm (tensor_norm.h), so that
// their sums stay whole; a tied embedding is cut by itself and alike on both its stages, so that
// one replica holds the same elements of both parts of its gradient. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "compute/stage.h"

namespace tenax::compute {

/// A stretch of the flat gradient buffer: member i owns [cuts[i], cuts[i + 1]).
struct GradientSection {
  std::size_t chunk = 0;          ///< of the rank's layers; a section lies within one
  std::vector<std::size_t> cuts;  ///< n + 1 ascending offsets in floats
  /// The same in chunks of the gradient norm, counted over the stage's tensors in order. Empty for
  /// the second part of a tied embedding, which has no values and no norm of its own.
  std::vector<std::size_t> norm_cuts;
};

/// Consecutive elements [begin, end) of a tensor, and where their moments lie.
struct MomentPiece {
  std::size_t parameter = 0;  ///< index among the stage's tensors
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t offset = 0;  ///< in floats, in the buffers of the moments
};

struct OptimizerShards {
  std::vector<GradientSection> sections;
  std::vector<std::vector<MomentPiece>> pieces;  ///< by member, in the order of the tensors
};

/// Cuts a rank's tensors over `num_members` replicas as evenly as the chunks of the norm allow,
/// each chunk of its layers by itself: tensors [first_parameters[c], first_parameters[c + 1]) are
/// chunk c. With one member every tensor is one piece, and the moments lie as the values do.
OptimizerShards shard_optimizer(std::span<const StageParameter> parameters,
                                std::span<const std::size_t> first_parameters, int num_members);
/// The same for one chunk.
OptimizerShards shard_optimizer(std::span<const StageParameter> parameters, int num_members);

/// Floats of one moment's buffer.
std::size_t moments_size(std::span<const MomentPiece> pieces);

}  // namespace tenax::compute
