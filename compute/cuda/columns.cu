#include "compute/cuda/columns.h"
#include "compute/cuda/device_code.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kCombineThreads = 128;

/// Block (columns, chunk): every warp adds each kWarps-th row of the chunk, then the warps' sums
/// are added in order. partial[chunk] = n sums for dbias, n sums for dweight.
template <class T, int N>
__global__ void partial_sums_kernel(ColumnSums c, std::int64_t chunk_rows, float* partial) {
  __shared__ float shared[kWarps][kWarp * N];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.x) * kWarp * N;
  const std::int64_t column = first_column + lane * N;
  const std::int64_t begin = blockIdx.y * chunk_rows;
  const std::int64_t end = begin + chunk_rows < c.rows ? begin + chunk_rows : c.rows;
  float bias[N] = {};
  float weight[N] = {};
  if (column < c.n) {
    for (std::int64_t row = begin + warp; row < end; row += kWarps) {
      const std::int64_t outer = row / c.group;
      const std::int64_t inner = row % c.group * c.n + column;
      const auto d = load<T, N>(static_cast<const T*>(c.dy) + outer * c.dy_outer + inner);
#pragma unroll
      for (int j = 0; j < N; ++j) bias[j] += d.values[j];
      if (c.dweight == nullptr) continue;
      const auto x = load<T, N>(static_cast<const T*>(c.x) + outer * c.x_outer + inner);
      const float mean = c.mean != nullptr ? c.mean[row] : 0.0f;
      const float rstd = c.rstd[row];
#pragma unroll
      for (int j = 0; j < N; ++j) weight[j] += d.values[j] * ((x.values[j] - mean) * rstd);
    }
  }
  float* out = partial + blockIdx.y * 2 * c.n;
  for (int which = 0; which < 2; ++which) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < N; ++j) shared[warp][lane * N + j] = which == 0 ? bias[j] : weight[j];
    __syncthreads();
    for (int i = threadIdx.x; i < kWarp * N; i += kWarps * kWarp) {
      if (first_column + i >= c.n) continue;
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += shared[w][i];
      out[which * c.n + first_column + i] = sum;
    }
  }
}

/// One thread a column: adds the chunks in ascending order.
__global__ void combine_kernel(ColumnSums c, std::int64_t num_chunks, const float* partial) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (column >= c.n) return;
  float bias = 0;
  float weight = 0;
  for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    bias += partial[2 * chunk * c.n + column];
    weight += partial[(2 * chunk + 1) * c.n + column];
  }
  if (c.dbias != nullptr) c.dbias[column] += bias;
  if (c.dweight != nullptr) c.dweight[column] += weight;
}

template <class T, int N>
void sum_columns(const ColumnSums& c, float* scratch, Stream stream) {
  const std::int64_t chunk_rows = column_chunk_rows(c.rows);
  const std::int64_t num_chunks = blocks_for(c.rows, chunk_rows);
  const auto partial = partial_sums_kernel<T, N>;
  const dim3 grid(static_cast<unsigned>(blocks_for(c.n, kWarp * N)),
                  static_cast<unsigned>(num_chunks));
  TENAX_LAUNCH(partial, grid, kWarps * kWarp, 0, stream, c, chunk_rows, scratch);
  const auto combine = combine_kernel;
  TENAX_LAUNCH(combine, static_cast<unsigned>(blocks_for(c.n, kCombineThreads)), kCombineThreads, 0,
               stream, c, num_chunks, scratch);
}

template <class T>
bool packed(const ColumnSums& c) {
  return can_be_packed<T>(c.dy, c.n, c.dy_outer) && can_be_packed<T>(c.x, c.n, c.x_outer);
}

}  // namespace

std::int64_t column_scratch_floats(std::int64_t rows, std::int64_t n) {
  return 2 * n * blocks_for(rows, column_chunk_rows(rows));
}

void launch_columns(const ColumnSums& c, float* scratch, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    packed<float>(c) ? sum_columns<float, 4>(c, scratch, stream)
                     : sum_columns<float, 1>(c, scratch, stream);
  else
    packed<Bfloat16>(c) ? sum_columns<Bfloat16, 8>(c, scratch, stream)
                        : sum_columns<Bfloat16, 1>(c, scratch, stream);
}

void launch_column_sums(const tenax_cuda_column_sums& call, float* scratch, Stream stream) {
  ColumnSums c;
  c.type = call.type;
  c.rows = call.rows;
  c.n = call.n;
  c.dy_outer = call.ld;
  c.dy = call.x;
  c.dbias = call.sums;
  launch_columns(c, scratch, stream);
}

}  // namespace tenax::cuda
