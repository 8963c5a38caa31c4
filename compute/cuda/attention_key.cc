#include <cstdio>

#include "compute/cuda/attention_plan.h"

namespace tenax::cuda {

std::string attention_refusal(const tenax_cuda_attention& c) {
  if (c.kernels == TENAX_CUDA_ATTENTION_PLAIN) return "plain kernels were asked for";
  if (c.type != TENAX_CUDA_BF16) return "cuDNN's fused attention computes in BF16 only";
  if (c.slopes != nullptr) return "ALiBi biases are done by the plain kernels";
  if (c.places != nullptr) return "packed documents are done by the plain kernels";
  if (c.dropout_threshold > 0) return "dropout is done by the plain kernels";
  if (c.head_dim % 8 != 0) return "head_dim is not a multiple of 8";
  if (c.ld % 8 != 0 || c.ld_out % 8 != 0) return "rows are not multiples of 16 bytes";
  for (const void* p : {c.q, c.k, c.v, static_cast<const void*>(c.out)})
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return "a tensor is not aligned to 16 bytes";
  return "";
}

std::string attention_key(const tenax_cuda_attention& c, Direction direction) {
  char text[200];
  std::snprintf(text, sizeof text, "%s b%lld t%lld h%lld k%lld d%lld ld %lld %lld",
                direction == Direction::kForward ? "forward" : "backward",
                static_cast<long long>(c.batch), static_cast<long long>(c.length),
                static_cast<long long>(c.heads), static_cast<long long>(c.kv_heads),
                static_cast<long long>(c.head_dim), static_cast<long long>(c.ld),
                static_cast<long long>(c.ld_out));
  return text;
}

}  // namespace tenax::cuda
