// AdamW: Adam with decoupled weight decay and bias correction (Loshchilov, Hutter,
// arXiv:1711.05101; Kingma, Ba, arXiv:1412.6980), one pass over flat ranges. Elementwise and
// without state of its own: any split into ranges gives equal bits, on every build of the kernels.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compute/cpu/isa.h"

namespace tenax::compute {

struct AdamwOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;

  bool operator==(const AdamwOptions&) const = default;
};

/// What changes from step to step.
struct AdamwStep {
  std::int64_t step = 1;  ///< 1-based number of this update, for the bias correction
  double learning_rate = 0;
  double gradient_scale = 1;  ///< multiplies the gradient first: 1 / targets, times clipping
};

/// Equally long pieces of the flat buffers; values, m and v are updated in place. m and v start at
/// 0.
struct AdamwRange {
  std::span<float> values;
  std::span<const float> gradient;
  std::span<float> m;
  std::span<float> v;
  bool decay = false;  ///< weight decay applies to this range
};

/// m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
/// w -= lr * decay * w + lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon). In fp32.
void adamw_update(const AdamwOptions& options, const AdamwStep& step, const AdamwRange& range,
                  cpu::Isa isa = cpu::best_isa());

/// Everything that is wrong with the options, one sentence each.
std::vector<std::string> problems(const AdamwOptions& options);

}  // namespace tenax::compute
