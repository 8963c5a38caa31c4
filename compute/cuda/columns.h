// Sums over the rows of a matrix, column by column, in chunks of rows that depend on the number of
// rows alone: the gradients of a norm's weight and bias and of a linear map's bias. No atomics.
#pragma once

#include "compute/cuda/kernels.h"

namespace tenax::cuda {

/// dbias[j] += sum of dy[r][j]; dweight[j] += sum of dy[r][j] * (x[r][j] - mean[r]) * rstd[r]. Rows
/// lie as tenax_cuda_norm says.
struct ColumnSums {
  std::int32_t type = 0;
  std::int64_t rows = 0, n = 0, group = 1, x_outer = 0, dy_outer = 0;
  const void* x = nullptr;  ///< null: only dbias
  const void* dy = nullptr;
  const float* mean = nullptr;  ///< null: 0
  const float* rstd = nullptr;
  float* dweight = nullptr;  ///< null: only dbias
  float* dbias = nullptr;    ///< null: only dweight
};

inline constexpr std::int64_t kMaxColumnChunks = 128;

/// Rows of a chunk: at most kMaxColumnChunks of them, none shorter than 64 rows but the last.
constexpr std::int64_t column_chunk_rows(std::int64_t rows) {
  const std::int64_t even = (rows + kMaxColumnChunks - 1) / kMaxColumnChunks;
  return even < 64 ? 64 : even;
}

/// `scratch`: column_scratch_floats(rows, n).
void launch_columns(const ColumnSums& sums, float* scratch, Stream stream);

}  // namespace tenax::cuda
