#include "compute/flops.h"

#include <algorithm>
#include <chrono>

#include "compute/aligned_buffer.h"
#include "compute/cpu/gemm_call.h"

namespace tenax::compute {

double flops_per_token(const ModelOptions& options, int sequence_length) {
  const ModelOptions o = resolved(options);
  const auto product = [](std::int64_t x, std::int64_t y) {
    return static_cast<double>(x) * static_cast<double>(y);
  };
  const double attention = product(o.width, (2 * o.num_heads + 2 * o.num_kv_heads) * o.head_dim);
  const double feed_forward = product(o.width, o.ffn_width) * (is_gated(o.activation) ? 3 : 2);
  const double weights = static_cast<double>(o.num_layers) * (attention + feed_forward) +
                         product(o.vocabulary_size, o.width);
  return 6 * weights + 12 * product(o.num_layers, sequence_length) *
                           static_cast<double>(o.num_heads * o.head_dim);
}

double measure_peak_flops(cpu::Isa isa, Precision precision) {
  AlignedBuffer a(static_cast<std::size_t>(cpu::kPackAFloats));
  AlignedBuffer b(static_cast<std::size_t>(cpu::kPackAFloats));
  AlignedBuffer c(static_cast<std::size_t>(cpu::kPackAFloats));
  cpu::TileLoop loop;
  loop.a = a.data();
  loop.b = b.data();
  loop.c = c.data();
  loop.paired =
      precision == Precision::kBf16 && isa == cpu::Isa::kAvx512 && cpu::bf16_products_pay();
  const auto burst = [&]() -> double {
    switch (isa) {
#if defined(__x86_64__)
      case cpu::Isa::kAvx512:
        return loop.paired ? cpu::tiles_avx512bf16(loop) : cpu::tiles_avx512(loop);
      case cpu::Isa::kAvx2:
        return cpu::tiles_avx2(loop);
#endif
      default:
        return cpu::tiles_portable(loop);
    }
  };
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const double flops = burst();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::max(best, flops / took.count());
    // Bursts of about 2 ms, whatever the processor.
    loop.repeats = std::max<std::int64_t>(
        16, static_cast<std::int64_t>(static_cast<double>(loop.repeats) * 2e-3 / took.count()));
  }
  return best;
}

}  // namespace tenax::compute
