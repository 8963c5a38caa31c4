// Attention through cuDNN: operation graphs built with its C API, planned once for each shape.
// Forward is softmax(QK^T)V with the log-sums as a second output; backward makes the probabilities
// anew from them. One thread.
#pragma once

#include <memory>
#include <string>

#include "compute/cuda/errors.h"

struct tenax_cuda_context;

namespace tenax::cuda {

enum class Direction : std::uint8_t { kForward, kBackward };

class AttentionPlans {
 public:
  virtual ~AttentionPlans() = default;
  /// OK if cuDNN has a plan for such calls; else why not. Looks at shapes, type and kernels only;
  /// remembers its answer.
  virtual Outcome plan(const tenax_cuda_attention& call, Direction direction) = 0;
  /// Queues it; plan() was OK.
  virtual Outcome run(const tenax_cuda_attention& call, Direction direction) = 0;
  /// A line for each engine in use, sorted; and back, as in matmul.h.
  virtual std::string plans() const = 0;
  virtual bool use_plan(const std::string& line) = 0;
};

/// The context outlives it.
std::unique_ptr<AttentionPlans> make_attention_plans(tenax_cuda_context& context);

/// Why cuDNN is not even asked for such a call; empty if it is.
std::string attention_refusal(const tenax_cuda_attention& call);
std::string attention_key(const tenax_cuda_attention& call, Direction direction);

/// Plans on a described GPU (cuDNN's JSON form of device properties) without any; `text` names the
/// engines.
Outcome plan_attention_without_device(const tenax_cuda_attention& call, Direction direction,
                                      const std::string& device_json, std::string& text);

}  // namespace tenax::cuda
