// Plain causal attention in tiles of 32 queries by 32 keys: any type, head size, grouping and
// ALiBi, sums in float32, no atomics. The scores never exist as a whole; backward makes them anew
// from log_sum (Dao et al., "FlashAttention", arXiv:2205.14135), once for dk and dv, where a block
// owns a tile of keys, and once for dq, where it owns a tile of queries. cuDNN is used where it can
// (attention_plan.h); this is for the rest, and where it has no deterministic engine.
//
// In every kernel thread t of 128 has row t / 4 of a tile and, of each row of D or 32 columns,
// every fourth one, beginning with t % 4. What it accumulates in shared memory no other thread
// touches.
#include "compute/cuda/device_code.h"
#include "compute/cuda/dropout_mask.h"
#include "compute/cuda/kernels.h"
#include "compute/cuda/packed.h"

namespace tenax::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kThreads = 128;
constexpr int kLanes = kThreads / kTile;
constexpr int kScores = kTile / kLanes;  // of a thread in a tile of scores
constexpr int kDeltaWarps = 4;

/// Rows of a tile lie D + 1 floats apart, rows of scores 33: the banks of shared memory differ.
__host__ __device__ constexpr std::int64_t tile_floats(std::int64_t head_dim) {
  return kTile * (head_dim + 1);
}
constexpr int kScoreStride = kTile + 1;
constexpr int kScoreFloats = kTile * kScoreStride;

/// Where a block works: one head of one sequence.
struct Head {
  std::int64_t batch, head, kv_head;
};

__device__ inline std::int64_t position(const tenax_cuda_attention& c, std::int64_t batch,
                                        std::int64_t t, std::int64_t ld, std::int64_t head) {
  return (batch * c.length + t) * ld + head * c.head_dim;
}

/// Rows [first, first + 32) of a head as float32 into shared memory, 0 behind the end of the
/// sequence.
template <class T>
__device__ void load_tile(const tenax_cuda_attention& c, const void* from, std::int64_t batch,
                          std::int64_t head, std::int64_t ld, std::int64_t first, float* tile) {
  const std::int64_t width = c.head_dim;
  for (std::int64_t i = threadIdx.x; i < kTile * width; i += kThreads) {
    const std::int64_t row = i / width;
    const std::int64_t d = i % width;
    const std::int64_t t = first + row;
    tile[row * (width + 1) + d] =
        t < c.length ? to_float(static_cast<const T*>(from)[position(c, batch, t, ld, head) + d])
                     : 0.0f;
  }
}

template <class T>
__device__ void store_tile(const tenax_cuda_attention& c, void* to, std::int64_t batch,
                           std::int64_t head, std::int64_t ld, std::int64_t first,
                           const float* tile) {
  const std::int64_t width = c.head_dim;
  for (std::int64_t i = threadIdx.x; i < kTile * width; i += kThreads) {
    const std::int64_t row = i / width;
    const std::int64_t d = i % width;
    const std::int64_t t = first + row;
    if (t < c.length)
      static_cast<T*>(to)[position(c, batch, t, ld, head) + d] =
          stored<T>(tile[row * (width + 1) + d]);
  }
}

__device__ inline void clear_tile(float* tile, std::int64_t head_dim) {
  for (std::int64_t i = threadIdx.x; i < tile_floats(head_dim); i += kThreads) tile[i] = 0.0f;
}

/// Dot products of row `row` of a with this thread's rows of b.
__device__ inline void dot_rows(const float* a, const float* b, std::int64_t head_dim, int row,
                                int lane, float (&out)[kScores]) {
  for (float& x : out) x = 0;
  const float* x = a + row * (head_dim + 1);
  for (std::int64_t d = 0; d < head_dim; ++d) {
    const float value = x[d];
#pragma unroll
    for (int j = 0; j < kScores; ++j) out[j] += value * b[(lane + j * kLanes) * (head_dim + 1) + d];
  }
}

/// The first key that a query sees: where its document begins.
__device__ inline std::int64_t first_seen(const tenax_cuda_attention& c, std::int64_t batch,
                                          std::int64_t query) {
  if (c.places == nullptr || query >= c.length) return 0;
  return query - c.places[batch * c.length + query];
}

/// The first tile of keys that a tile of queries sees. Later queries see no earlier keys.
__device__ inline std::int64_t first_key_tile(const tenax_cuda_attention& c, std::int64_t batch,
                                              std::int64_t first_query) {
  return first_seen(c, batch, first_query) / kTile * kTile;
}

/// What a query's probabilities are multiplied by. Of a query behind the end of the sequence
/// nothing is kept by the caller.
struct Kept {
  __device__ Kept(const tenax_cuda_attention& c, const Head& at, std::int64_t query)
      : all_(c.dropout_threshold == 0) {
    if (!all_)
      row_ = dropout_row(c.dropout_key, c.dropout_threshold, c.dropout_scale, c.samples[at.batch],
                         (c.first_head + at.head) * c.length + query);
  }
  __device__ float factor(std::int64_t key) const {
    return all_ ? 1.0f : dropout_factor(row_, static_cast<std::uint32_t>(key));
  }

 private:
  bool all_;
  compute::DropoutRow row_{};
};

/// Score of a query and a key that it sees, from their dot product.
__device__ inline float score(const tenax_cuda_attention& c, std::int64_t head, std::int64_t query,
                              std::int64_t key, float dot) {
  const float x = dot * c.scale;
  return c.slopes == nullptr ? x : x + c.slopes[head] * static_cast<float>(key - query);
}

/// out[d] of row `row` += sum over i of weights[i * stride] * rows[i][d], for this thread's d.
__device__ inline void add_weighted_rows(const float* weights, int stride, const float* rows,
                                         std::int64_t head_dim, int row, int lane, float* out) {
  for (std::int64_t d = lane; d < head_dim; d += kLanes) {
    float sum = 0;
    for (int i = 0; i < kTile; ++i) sum += weights[i * stride] * rows[i * (head_dim + 1) + d];
    out[row * (head_dim + 1) + d] += sum;
  }
}

/// Over the four threads of a row; all get the same bits.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}

/// Block (tile of queries, head, sequence).
template <class T>
__global__ void attention_kernel(tenax_cuda_attention c) {
  TENAX_DYNAMIC_SHARED(shared);
  float* q = shared;
  float* kv = q + tile_floats(c.head_dim);
  float* out = kv + tile_floats(c.head_dim);
  float* p = out + tile_floats(c.head_dim);
  const Head at{blockIdx.z, blockIdx.y, blockIdx.y / (c.heads / c.kv_heads)};
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int row = threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  const std::int64_t query = first + row;
  const std::int64_t begin = first_seen(c, at.batch, query);
  const Kept kept(c, at, query);
  load_tile<T>(c, c.q, at.batch, at.head, c.ld, first, q);
  clear_tile(out, c.head_dim);
  float largest = -INFINITY;
  float total = 0;
  for (std::int64_t key_first = first_key_tile(c, at.batch, first); key_first <= first;
       key_first += kTile) {
    load_tile<T>(c, c.k, at.batch, at.kv_head, c.ld, key_first, kv);
    __syncthreads();
    float s[kScores];
    dot_rows(q, kv, c.head_dim, row, lane, s);
    float top = largest;
#pragma unroll
    for (int j = 0; j < kScores; ++j) {
      const std::int64_t key = key_first + lane + j * kLanes;
      s[j] = key <= query && key >= begin ? score(c, at.head, query, key, s[j]) : -INFINITY;
      top = fmaxf(top, s[j]);
    }
    top = row_max(top);
    // A row whose document begins in a later tile has seen nothing yet.
    const bool sees = top > -INFINITY;
    const float shrink = sees ? expf(largest - top) : 1.0f;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kScores; ++j) {
      const std::int64_t key = key_first + lane + j * kLanes;
      const float e = sees ? expf(s[j] - top) : 0.0f;
      p[row * kScoreStride + lane + j * kLanes] = e * kept.factor(key);
      sum += e;
    }
    total = total * shrink + row_sum(sum);
    largest = top;
    __syncthreads();
    load_tile<T>(c, c.v, at.batch, at.kv_head, c.ld, key_first, kv);
    for (std::int64_t d = lane; d < c.head_dim; d += kLanes)
      out[row * (c.head_dim + 1) + d] *= shrink;
    __syncthreads();
    add_weighted_rows(p + row * kScoreStride, 1, kv, c.head_dim, row, lane, out);
    __syncthreads();
  }
  const float inverse = 1.0f / total;
  for (std::int64_t d = lane; d < c.head_dim; d += kLanes)
    out[row * (c.head_dim + 1) + d] *= inverse;
  if (lane == 0 && query < c.length)
    c.log_sum[(at.batch * c.heads + at.head) * c.length + query] = largest + logf(total);
  __syncthreads();
  store_tile<T>(c, c.out, at.batch, at.head, c.ld_out, first, out);
}

/// delta = sum over d of dout * out; one warp a query.
template <class T>
__global__ void delta_kernel(tenax_cuda_attention c, float* delta) {
  const int lane = threadIdx.x % kWarp;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kDeltaWarps + threadIdx.x / kWarp;
  if (i >= c.batch * c.heads * c.length) return;  // the whole warp
  const std::int64_t t = i % c.length;
  const std::int64_t head = i / c.length % c.heads;
  const std::int64_t at = position(c, i / c.length / c.heads, t, c.ld_out, head);
  float sum = 0;
  for (std::int64_t d = lane; d < c.head_dim; d += kWarp)
    sum += to_float(static_cast<const T*>(c.dout)[at + d]) *
           to_float(static_cast<const T*>(c.out)[at + d]);
  sum = warp_sum(sum);
  if (lane == 0) delta[i] = sum;
}

/// This thread's part of a tile of P and dS, into shared memory: queries [query_first, +32) by keys
/// [key_first, +32).
struct ScoreTiles {
  const float *q, *k, *v, *dout;
  float *p, *ds;  ///< p may be null
};
__device__ inline void score_gradients(const tenax_cuda_attention& c, const float* delta,
                                       const Head& at, std::int64_t query_first,
                                       std::int64_t key_first, const ScoreTiles& tiles) {
  const int row = threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  const std::int64_t query = query_first + row;
  float s[kScores];
  float dp[kScores];
  dot_rows(tiles.q, tiles.k, c.head_dim, row, lane, s);
  dot_rows(tiles.dout, tiles.v, c.head_dim, row, lane, dp);
  const bool exists = query < c.length;
  const std::int64_t begin = first_seen(c, at.batch, query);
  const Kept kept(c, at, query);
  const std::int64_t i = (at.batch * c.heads + at.head) * c.length + query;
  const float log_sum = exists ? c.log_sum[i] : 0.0f;
  const float d = exists ? delta[i] : 0.0f;
#pragma unroll
  for (int j = 0; j < kScores; ++j) {
    const std::int64_t key = key_first + lane + j * kLanes;
    const float p = exists && key <= query && key >= begin
                        ? expf(score(c, at.head, query, key, s[j]) - log_sum)
                        : 0.0f;
    const float factor = kept.factor(key);
    const int place = row * kScoreStride + lane + j * kLanes;
    if (tiles.p != nullptr) tiles.p[place] = p * factor;
    tiles.ds[place] = p * (dp[j] * factor - d) * c.scale;
  }
}

/// Block (tile of keys, key/value head, sequence): over its query heads, then over tiles of
/// queries, ascending.
template <class T>
__global__ void key_value_gradient_kernel(tenax_cuda_attention c, const float* delta) {
  TENAX_DYNAMIC_SHARED(shared);
  const std::int64_t size = tile_floats(c.head_dim);
  float* k = shared;
  float* v = k + size;
  float* q = v + size;
  float* dout = q + size;
  float* dk = dout + size;
  float* dv = dk + size;
  float* p = dv + size;
  float* ds = p + kScoreFloats;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t group = c.heads / c.kv_heads;
  const std::int64_t kv_head = blockIdx.y;
  const std::int64_t batch = blockIdx.z;
  const int row = threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  load_tile<T>(c, c.k, batch, kv_head, c.ld, first, k);
  load_tile<T>(c, c.v, batch, kv_head, c.ld, first, v);
  clear_tile(dk, c.head_dim);
  clear_tile(dv, c.head_dim);
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (std::int64_t query_first = first; query_first < c.length; query_first += kTile) {
      // Later documents see none of these keys; the whole block leaves.
      if (first_seen(c, batch, query_first) >= first + kTile) break;
      __syncthreads();
      load_tile<T>(c, c.q, batch, head, c.ld, query_first, q);
      load_tile<T>(c, c.dout, batch, head, c.ld_out, query_first, dout);
      __syncthreads();
      score_gradients(c, delta, {batch, head, kv_head}, query_first, first, {q, k, v, dout, p, ds});
      __syncthreads();
      add_weighted_rows(p + row, kScoreStride, dout, c.head_dim, row, lane, dv);
      add_weighted_rows(ds + row, kScoreStride, q, c.head_dim, row, lane, dk);
    }
  }
  __syncthreads();
  store_tile<T>(c, c.dk, batch, kv_head, c.ld, first, dk);
  store_tile<T>(c, c.dv, batch, kv_head, c.ld, first, dv);
}

/// Block (tile of queries, head, sequence).
template <class T>
__global__ void query_gradient_kernel(tenax_cuda_attention c, const float* delta) {
  TENAX_DYNAMIC_SHARED(shared);
  const std::int64_t size = tile_floats(c.head_dim);
  float* q = shared;
  float* dout = q + size;
  float* k = dout + size;
  float* v = k + size;
  float* dq = v + size;
  float* ds = dq + size;
  const Head at{blockIdx.z, blockIdx.y, blockIdx.y / (c.heads / c.kv_heads)};
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int row = threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  load_tile<T>(c, c.q, at.batch, at.head, c.ld, first, q);
  load_tile<T>(c, c.dout, at.batch, at.head, c.ld_out, first, dout);
  clear_tile(dq, c.head_dim);
  for (std::int64_t key_first = first_key_tile(c, at.batch, first); key_first <= first;
       key_first += kTile) {
    __syncthreads();
    load_tile<T>(c, c.k, at.batch, at.kv_head, c.ld, key_first, k);
    load_tile<T>(c, c.v, at.batch, at.kv_head, c.ld, key_first, v);
    __syncthreads();
    score_gradients(c, delta, at, first, key_first, {q, k, v, dout, nullptr, ds});
    __syncthreads();
    add_weighted_rows(ds + row * kScoreStride, 1, k, c.head_dim, row, lane, dq);
  }
  __syncthreads();
  store_tile<T>(c, c.dq, at.batch, at.head, c.ld, first, dq);
}

template <class Kernel, class... Arguments>
void launch_tiles(Kernel kernel, const dim3& grid, std::int64_t shared_bytes, Stream stream,
                  Arguments... arguments) {
  constexpr std::int64_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking)
    // A refusal is seen at the launch.
    static_cast<void>(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(shared_bytes)));
  TENAX_LAUNCH(kernel, grid, kThreads, static_cast<std::size_t>(shared_bytes), stream,
               arguments...);
}

std::int64_t shared_bytes(std::int64_t head_dim, int tiles, int scores) {
  return static_cast<std::int64_t>(sizeof(float)) *
         (tiles * tile_floats(head_dim) + scores * kScoreFloats);
}

dim3 tile_grid(const tenax_cuda_attention& c, std::int64_t heads) {
  return dim3(static_cast<unsigned>(blocks_for(c.length, kTile)), static_cast<unsigned>(heads),
              static_cast<unsigned>(c.batch));
}

template <class T>
void attention_backward(const tenax_cuda_attention& c, float* delta, Stream stream) {
  const auto delta_of = delta_kernel<T>;
  TENAX_LAUNCH(delta_of,
               static_cast<unsigned>(blocks_for(c.batch * c.heads * c.length, kDeltaWarps)),
               kDeltaWarps * kWarp, 0, stream, c, delta);
  launch_tiles(key_value_gradient_kernel<T>, tile_grid(c, c.kv_heads),
               shared_bytes(c.head_dim, 6, 2), stream, c, static_cast<const float*>(delta));
  launch_tiles(query_gradient_kernel<T>, tile_grid(c, c.heads), shared_bytes(c.head_dim, 5, 1),
               stream, c, static_cast<const float*>(delta));
}

}  // namespace

std::int64_t attention_shared_bytes(std::int64_t head_dim, bool backward) {
  return backward ? shared_bytes(head_dim, 6, 2) : shared_bytes(head_dim, 3, 1);
}

void launch_attention(const tenax_cuda_attention& c, Stream stream) {
  const std::int64_t bytes = attention_shared_bytes(c.head_dim, false);
  if (c.type == TENAX_CUDA_F32)
    launch_tiles(attention_kernel<float>, tile_grid(c, c.heads), bytes, stream, c);
  else
    launch_tiles(attention_kernel<Bfloat16>, tile_grid(c, c.heads), bytes, stream, c);
}

void launch_attention_backward(const tenax_cuda_attention& c, float* delta, Stream stream) {
  if (c.type == TENAX_CUDA_F32)
    attention_backward<float>(c, delta, stream);
  else
    attention_backward<Bfloat16>(c, delta, stream);
}

}  // namespace tenax::cuda
