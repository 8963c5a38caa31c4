// The number formats of a run's arithmetic, and what decides its bits. docs/numerics.md has the
// table of every tensor. Value types.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "compute/cpu/isa.h"

namespace tenax::compute {

enum class Precision : std::uint8_t {
  kFp32,
  kBf16,  ///< factors of matrix products are rounded to bfloat16; all sums and all weights are fp32
};

/// "fp32" or "bf16".
std::string_view to_string(Precision precision);

/// What the bits of a run depend on besides its configuration, as a sentence of two machines that
/// agree: "fp32 products, fused multiply-add, sums cut at k256". Equal texts give equal bits.
std::string arithmetic(cpu::Isa isa, Precision precision);

}  // namespace tenax::compute
