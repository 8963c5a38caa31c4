// The maps and norms that a layer on a GPU is made of, each a call of the plugin. Engine's thread.
#pragma once

#include "compute/cuda_device.h"
#include "compute/cuda_stage_memory.h"
#include "compute/dropout.h"
#include "compute/stage_layout.h"
#include "compute/tensor_group.h"

namespace tenax::compute {

/// What every operation of a stage needs to know. `options` are local_options(). `values` are
/// float32; `weights` the same tensors as the products read them: values itself, or their BF16
/// copy.
struct CudaBlockContext {
  CudaDevice& device;
  const ModelOptions& options;
  const CudaWorkspace& workspace;
  std::int32_t type = TENAX_CUDA_F32;
  const float* values = nullptr;
  const std::byte* weights = nullptr;
  std::int32_t attention_kernels = TENAX_CUDA_ATTENTION_AUTO;
  TensorGroup* tensor_group = nullptr;  ///< where other ranks hold the other heads
};

/// Numbers of a type, TENAX_CUDA_F32 or TENAX_CUDA_BF16.
struct CudaTensor {
  std::byte* data = nullptr;
  std::int32_t type = TENAX_CUDA_F32;
};

/// Rows of an operand: `ld` elements apart.
struct CudaRows {
  std::byte* data = nullptr;
  std::int64_t ld = 0;
};

/// Into the fields of a call that has dropout.
template <class Call>
void set_dropout(Call& call, const DropoutSite& site, const std::int64_t* samples) {
  call.dropout_threshold = static_cast<std::int32_t>(site.threshold);
  call.dropout_scale = site.scale;
  call.dropout_key = site.key;
  call.samples = samples;
}

/// The maps of a stage, on all B T rows, and its norms, on the R of the residual stream that this
/// rank has.
class CudaOps {
 public:
  CudaOps(const CudaBlockContext& context, const BatchShape& shape)
      : c_(context),
        shape_(shape),
        s_(context.options, shape,
           context.tensor_group == nullptr ? TensorPart{} : context.tensor_group->part(),
           context.type == TENAX_CUDA_F32 ? 4 : 2) {}

  const CudaSizes& sizes() const { return s_; }
  std::byte* offset(std::byte* p, std::int64_t elements) const { return p + elements * s_.element; }
  const std::byte* weight(std::int64_t at) const {
    return at < 0 ? nullptr : c_.weights + at * s_.element;
  }
  const float* value(std::int64_t at) const { return at < 0 ? nullptr : c_.values + at; }

  /// This rank's rows of a (B, T, C) tensor of the stage's type.
  std::byte* own(std::byte* all) const { return offset(all, s_.own.begin * s_.width); }
  /// x (R, C) of the stage's type into `out`.
  void copy_own(const std::byte* x, std::byte* out) const;
  /// Of a (B, T, C) tensor of the stage's type: each rank's rows, from it.
  void gather(std::byte* all) const;
  /// All ranks' rows of x (R, C): in `all` (B, T, C), or x where this rank has them all.
  std::byte* all_rows(std::byte* x, std::byte* all) const;
  /// Of workspace.sum (B, T, C): this rank's rows become sums over the ranks that share the stage.
  void reduce_scatter() const;
  const float* own_sum() const { return c_.workspace.sum + s_.own.begin * s_.width; }

  struct NormCall {
    NormOffsets at;
    std::byte* x = nullptr;  // (R, C)
    std::byte* y = nullptr;  // (R, C)
    float* mean = nullptr;
    float* rstd = nullptr;
  };
  void norm(const NormCall& call) const;
  /// dx = or += the gradient through the norm of `call` (whose y is not looked at).
  void norm_backward(const NormCall& call, std::byte* dy, std::byte* dx, bool add_dx,
                     float* gradient) const;
  /// Norms of the first or following heads of packed rows, each over head_dim.
  struct HeadNorm {
    NormOffsets at;
    std::int64_t first_head = 0, heads = 0;
    float* mean = nullptr;
    float* rstd = nullptr;
  };
  void head_norm(const HeadNorm& norm, std::byte* raw, std::byte* out) const;
  void head_norm_backward(const HeadNorm& norm, std::byte* raw, std::byte* grad,
                          float* gradient) const;

  /// Drops numbers of x (R, C) of the stage's type into `out`, which may be x.
  void drop(const DropoutSite& site, const std::int64_t* samples, const std::byte* x,
            std::byte* out) const;

  /// y (rows, out) = x (rows, in) W^T + b [+ added].
  struct Linear {
    LinearOffsets at;
    std::int64_t in = 0, out = 0;
  };
  void linear(const Linear& map, CudaRows x, CudaRows y, const std::byte* added = nullptr) const;
  /// The same without bias, as float32.
  void linear_sum(const Linear& map, CudaRows x, float* y) const;
  /// dx = or += dy W.
  void linear_backward_input(const Linear& map, CudaRows dy, CudaTensor dx, bool add) const;
  /// dW += dy^T x; db += column sums of dy.
  void linear_backward_weight(const Linear& map, CudaRows dy, CudaRows x, float* gradient) const;

 private:
  /// x W^T; where it goes and what is added is left open.
  tenax_cuda_matmul forward_product(const Linear& map, CudaRows x) const;

 protected:
  const CudaBlockContext& c_;
  BatchShape shape_;
  CudaSizes s_;
};

}  // namespace tenax::compute
