// Which tensors of two checkpoints differ, and by how much. Layouts, shards and chunk sizes do not
// matter. Pure but for the reads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/reader.h"
#include "common/result.h"

namespace tenax::checkpoint {

enum class TensorVerdict : std::uint8_t {
  kEqual,  ///< every bit
  kDifferent,
  kOtherShape,
  kOnlyInFirst,
  kOnlyInSecond,
};
std::string_view to_string(TensorVerdict verdict);

struct TensorComparison {
  std::string kind;
  std::string name;
  TensorVerdict verdict = TensorVerdict::kEqual;
  std::int64_t num_different = 0;  ///< elements whose bits differ
  /// Largest absolute difference; infinite where one of two different elements is not finite.
  double max_difference = 0;
};

/// One entry for each tensor of either, sorted by kind, then name. Reads both on `num_threads`
/// threads; memory is a constant for each. Errors as CheckpointReader::read_box().
Result<std::vector<TensorComparison>> compare_tensors(const CheckpointReader& first,
                                                      const CheckpointReader& second,
                                                      int num_threads = 2);

}  // namespace tenax::checkpoint
