#include "compute/cpu/isa.h"

#include <algorithm>
#include <chrono>

#include "compute/aligned_buffer.h"
#include "compute/cpu/gemm_call.h"

namespace tenax::compute::cpu {
namespace {

#if defined(__x86_64__)
/// Operations a second of a kernel, at best: others may use the processor too.
double best_rate(double (*tiles)(const TileLoop&), const TileLoop& loop) {
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const double operations = tiles(loop);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::max(best, operations / took.count());
  }
  return best;
}

bool measure_bf16_products() {
  const AlignedBuffer numbers(static_cast<std::size_t>(kPackAFloats));
  const AlignedBuffer tile(static_cast<std::size_t>(kPackAFloats));
  TileLoop loop;
  loop.repeats = 64;
  loop.a = numbers.data();
  loop.b = numbers.data();
  loop.c = tile.data();
  return best_rate(tiles_avx512bf16, loop) > best_rate(tiles_avx512, loop);
}
#endif

}  // namespace

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

bool bf16_products_pay() {
#if defined(__x86_64__)
  static const bool pay = has_bf16_products() && measure_bf16_products();
  return pay;
#else
  return false;
#endif
}

}  // namespace tenax::compute::cpu
