// Which build of the CPU kernels runs. The choice depends on the processor alone, never on the
// environment; it is recorded with the run, because sums differ in their last bits between machines
// with and without fused multiply-add.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace tenax::compute::cpu {

enum class Isa : std::uint8_t {
  kPortable,  ///< what the compiler's baseline has
  kAvx2,      ///< AVX2 and FMA
  kAvx512,    ///< AVX-512 F, BW, DQ, VL
};

/// "portable", "avx2" or "avx512".
std::string_view to_string(Isa isa);
/// Whether this processor runs that build.
bool is_available(Isa isa);
/// The builds that this processor runs, worst first; never empty.
std::vector<Isa> available_isas();
Isa best_isa();
/// Whether this processor multiplies bfloat16 pairs (AVX512-BF16) and adds them as gemm_blocks.h
/// says: the second of a pair first, each sum rounded to the nearest.
bool has_bf16_products();
/// Whether those products are also faster than rounding to bfloat16 and multiplying in fp32, which
/// gives the same bits: measured once, since some processors have them at half the speed.
bool bf16_products_pay();

}  // namespace tenax::compute::cpu
