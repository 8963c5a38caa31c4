// The CUDA plugin, opened at run time: one program runs with and without GPUs. What is missing is
// said in words that tell what to do. Immutable after load(); its functions follow the rules of
// compute/cuda/tenax_cuda.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "compute/cuda/tenax_cuda.h"

namespace tenax::compute {

/// Every function of the interface, without its prefix.
// clang-format off
#define TENAX_CUDA_PLUGIN_FUNCTIONS(F) \
  F(abi_version) F(device_count) F(get_device_info) F(peer_access) F(describe) F(health) F(plan_attention) \
  F(create) F(destroy) F(message) F(memory_info) F(memory_held) F(synchronize) F(plans) F(use_plans) \
  F(malloc) F(free) F(host_malloc) F(host_free) F(host_register) F(host_unregister) \
  F(fill_zero) F(copy) F(to_device) F(to_host) F(begin_read) F(order_after_reads) \
  F(finish_reads) F(run_embed) F(run_embed_backward) F(run_norm) F(run_norm_backward) \
  F(run_column_sums) F(run_matmul) F(run_activation) F(run_activation_backward) F(run_rope) \
  F(run_dropout) F(run_residual) F(run_attention) F(run_attention_backward) F(run_cross_entropy) F(run_adamw) F(run_add) \
  F(run_cast) F(run_scale) F(run_chunk_squares) F(run_spin) F(run_bad_store) \
  F(nccl_unique_id) F(nccl_create) F(nccl_poll) F(nccl_message) F(nccl_all_reduce) \
  F(nccl_exchange) F(nccl_join) F(nccl_finalize) F(nccl_abort) F(nccl_destroy)
// clang-format on

struct CudaPlugin {
#define TENAX_DECLARE_FUNCTION(name) decltype(&::tenax_cuda_##name) name = nullptr;
  TENAX_CUDA_PLUGIN_FUNCTIONS(TENAX_DECLARE_FUNCTION)
#undef TENAX_DECLARE_FUNCTION
  std::string path;

  /// Opens the first of `candidates` that exists. kUnavailable when there is none, kUnsupported
  /// when it was built for another version of the interface. It stays open as long as the process.
  static Result<std::shared_ptr<const CudaPlugin>> load(const std::vector<std::string>& candidates);
};

/// Where the plugin is looked for: TENAX_CUDA_PLUGIN alone if it is set, else beside the program
/// and in ../lib of it.
std::vector<std::string> cuda_plugin_candidates();

/// How many GPUs there are for it; at least one. kUnavailable with what is missing (a driver, a
/// device) and what to do.
Result<int> cuda_device_count(const CudaPlugin& plugin);

/// What a GPU is. Takes none of its memory.
Result<tenax_cuda_device_info> cuda_device_info(const CudaPlugin& plugin, int device);

/// A status of the plugin as this program's; ok() for TENAX_CUDA_OK.
Status cuda_status(tenax_cuda_status status, const std::string& message);

}  // namespace tenax::compute
