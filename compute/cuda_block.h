// One layer of the decoder on a GPU, forward and backward, and the linear maps and norms it is made
// of. The same steps as compute/cpu/block.cc; q, k and v lie in one packed buffer, as do up and
// gate, and one product makes each where their weights lie one behind the other. Engine's thread.
#pragma once

#include "compute/cuda_device.h"
#include "compute/cuda_stage_memory.h"
#include "compute/stage_layout.h"

namespace tenax::compute {

/// What every operation of a stage needs to know. `values` are float32; `weights` the same tensors
/// as the products read them: values itself, or their BF16 copy.
struct CudaBlockContext {
  CudaDevice& device;
  const ModelOptions& options;
  const CudaWorkspace& workspace;
  std::int32_t type = TENAX_CUDA_F32;
  const float* values = nullptr;
  const std::byte* weights = nullptr;
  std::int32_t attention_kernels = TENAX_CUDA_ATTENTION_AUTO;
};

/// Rows of an operand: `ld` elements apart.
struct CudaRows {
  std::byte* data = nullptr;
  std::int64_t ld = 0;
};

/// The maps of a stage, on `tokens` rows.
class CudaOps {
 public:
  CudaOps(const CudaBlockContext& context, const BatchShape& shape)
      : c_(context),
        shape_(shape),
        s_(context.options, shape, context.type == TENAX_CUDA_F32 ? 4 : 2) {}

  const CudaSizes& sizes() const { return s_; }
  std::byte* offset(std::byte* p, std::int64_t elements) const { return p + elements * s_.element; }
  const std::byte* weight(std::int64_t at) const {
    return at < 0 ? nullptr : c_.weights + at * s_.element;
  }
  const float* value(std::int64_t at) const { return at < 0 ? nullptr : c_.values + at; }

  struct NormCall {
    NormOffsets at;
    std::byte* x = nullptr;
    std::byte* y = nullptr;
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

  /// y (rows, out) = x (rows, in) W^T + b [+ added].
  struct Linear {
    LinearOffsets at;
    std::int64_t in = 0, out = 0;
  };
  void linear(const Linear& map, CudaRows x, CudaRows y, const std::byte* added = nullptr) const;
  /// dx = or += dy W.
  void linear_backward_input(const Linear& map, CudaRows dy, std::byte* dx, bool add) const;
  /// dW += dy^T x; db += column sums of dy.
  void linear_backward_weight(const Linear& map, CudaRows dy, CudaRows x, float* gradient) const;

 protected:
  const CudaBlockContext& c_;
  BatchShape shape_;
  CudaSizes s_;
};

struct CudaBlockCall {
  BatchShape shape;
  const LayerOffsets& at;
  std::byte* x = nullptr;  // (B, T, C): the layer's input
  const CudaLayer& kept;
};

/// Writes the layer's output to `out` (B, T, C) and what backward needs to call.kept.
void cuda_block_forward(const CudaBlockContext& context, const CudaBlockCall& call, std::byte* out);
/// `grad` (B, T, C): the gradient of the output becomes that of the input. Adds to `gradient`.
void cuda_block_backward(const CudaBlockContext& context, const CudaBlockCall& call,
                         std::byte* grad, float* gradient);

}  // namespace tenax::compute
