#include "compute/cpu/isa.h"

#include "compute/cpu/gemm_call.h"

namespace tenax::compute::cpu {

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

bool is_available(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (isa == Isa::kAvx512) return avx512;
  if (isa == Isa::kAvx2) return avx2;
#endif
  return isa == Isa::kPortable;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
    if (is_available(isa)) isas.push_back(isa);
  return isas;
}

Isa best_isa() {
  if (is_available(Isa::kAvx512)) return Isa::kAvx512;
  return is_available(Isa::kAvx2) ? Isa::kAvx2 : Isa::kPortable;
}

bool has_bf16_products() {
#if defined(__x86_64__)
  static const bool known = is_available(Isa::kAvx512) && __builtin_cpu_supports("avx512bf16") &&
                            bf16_pairs_are_added_in_order();
  return known;
#else
  return false;
#endif
}

}  // namespace tenax::compute::cpu
