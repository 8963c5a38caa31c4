#include "compute/precision.h"

#include <fmt/format.h>

#include "compute/cpu/gemm_call.h"

namespace tenax::compute {

std::string_view to_string(Precision precision) {
  return precision == Precision::kBf16 ? "bf16" : "fp32";
}

std::string arithmetic(cpu::Isa isa, Precision precision) {
  // A product of two bfloat16 numbers is exact in fp32, so that fusing it changes nothing.
  if (precision == Precision::kBf16)
    return fmt::format("bf16 products, sums cut at k{}", cpu::kBlockK);
  return fmt::format("fp32 products, {}, sums cut at k{}",
                     isa == cpu::Isa::kPortable ? "multiply then add" : "fused multiply-add",
                     cpu::kBlockK);
}

}  // namespace tenax::compute
