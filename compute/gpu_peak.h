// What GPUs reach at best, by NVIDIA's data sheets: what MFU on them is a share of. Pure.
#pragma once

#include <string_view>

#include "compute/precision.h"

namespace tenax::compute {

/// Operations a second of dense matrix products on a GPU that CUDA calls `name`: BF16 on tensor
/// cores, float32 (which takes no TF32) on the others. 0 where the name is not known, and for a
/// part of a GPU (MIG).
double gpu_peak_flops(std::string_view name, Precision precision);

}  // namespace tenax::compute
