// The kernels' launchers: each queues what an operation of tenax_cuda.h says on a stream and
// returns. Arguments are taken as right (operations.cc judges them); launch errors are left to
// cudaGetLastError(). How a sum is cut depends on shapes alone, never on the GPU. Plain functions,
// any thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "compute/cuda/tenax_cuda.h"

namespace tenax::cuda {

using Stream = cudaStream_t;

void launch_embed(const tenax_cuda_embed& call, Stream stream);
void launch_embed_backward(const tenax_cuda_embed_backward& call, Stream stream);

void launch_norm(const tenax_cuda_norm& call, Stream stream);
/// Floats of scratch that launch_norm_backward and launch_column_sums need for n columns.
std::int64_t column_scratch_floats(std::int64_t rows, std::int64_t n);
void launch_norm_backward(const tenax_cuda_norm_backward& call, float* scratch, Stream stream);
void launch_column_sums(const tenax_cuda_column_sums& call, float* scratch, Stream stream);

void launch_activation(const tenax_cuda_activation& call, Stream stream);
void launch_activation_backward(const tenax_cuda_activation& call, Stream stream);
void launch_rope(const tenax_cuda_rope& call, Stream stream);
void launch_dropout(const tenax_cuda_dropout& call, Stream stream);
void launch_residual(const tenax_cuda_residual& call, Stream stream);

/// Bytes of dynamic shared memory of the largest block of the plain attention kernels.
std::int64_t attention_shared_bytes(std::int64_t head_dim, bool backward);
/// Plain attention, any head_dim whose attention_shared_bytes() the device has.
void launch_attention(const tenax_cuda_attention& call, Stream stream);
/// `delta`: B * H * T floats of scratch.
void launch_attention_backward(const tenax_cuda_attention& call, float* delta, Stream stream);

void launch_cross_entropy(const tenax_cuda_cross_entropy& call, Stream stream);
/// A range in the device's table of an update, and which blocks of the launch are its.
struct AdamwRow {
  tenax_cuda_adamw_range range;
  std::int64_t first_block;
  std::int64_t width;  ///< elements of a thread
};
/// The rows of `num_ranges` ranges; returns the blocks of all.
std::int64_t adamw_rows(const tenax_cuda_adamw_range* ranges, int num_ranges, AdamwRow* rows);
/// `rows`: on the device.
void launch_adamw(const tenax_cuda_adamw& call, const AdamwRow* rows, int num_rows,
                  std::int64_t num_blocks, Stream stream);
void launch_add(const float* a, const float* b, float* sum, std::int64_t count, Stream stream);
void launch_cast(const void* from, std::int32_t from_type, void* to, std::int32_t to_type,
                 std::int64_t count, Stream stream);
void launch_scale(void* x, std::int32_t type, float factor, std::int64_t count, Stream stream);
void launch_chunk_squares(const float* x, std::int64_t count, double* sums, Stream stream);

void launch_spin(double seconds, Stream stream);
void launch_bad_store(float* end, Stream stream);

}  // namespace tenax::cuda
