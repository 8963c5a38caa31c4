#include "compute/flops.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

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

namespace {

/// The micro-kernel of a build on tiles of its own.
class TileBurst {
 public:
  TileBurst(cpu::Isa isa, Precision precision) : isa_(isa) {
    loop_.a = a_.data();
    loop_.b = b_.data();
    loop_.c = c_.data();
    loop_.paired =
        precision == Precision::kBf16 && isa == cpu::Isa::kAvx512 && cpu::bf16_products_pay();
  }

  /// Its rate; takes about 2 ms from the second time on.
  double run() {
    const auto begin = std::chrono::steady_clock::now();
    const double flops = tiles();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    loop_.repeats = std::max<std::int64_t>(
        16, static_cast<std::int64_t>(static_cast<double>(loop_.repeats) * 2e-3 / took.count()));
    return flops / took.count();
  }

 private:
  double tiles() const {
    switch (isa_) {
#if defined(__x86_64__)
      case cpu::Isa::kAvx512:
        return loop_.paired ? cpu::tiles_avx512bf16(loop_) : cpu::tiles_avx512(loop_);
      case cpu::Isa::kAvx2:
        return cpu::tiles_avx2(loop_);
#endif
      default:
        return cpu::tiles_portable(loop_);
    }
  }

  const cpu::Isa isa_;
  const AlignedBuffer a_{static_cast<std::size_t>(cpu::kPackAFloats)};
  const AlignedBuffer b_{static_cast<std::size_t>(cpu::kPackAFloats)};
  const AlignedBuffer c_{static_cast<std::size_t>(cpu::kPackAFloats)};
  cpu::TileLoop loop_;
};

}  // namespace

double measure_peak_flops(cpu::Isa isa, Precision precision) {
  TileBurst burst(isa, precision);
  double best = 0;
  for (int i = 0; i < 8; ++i) best = std::max(best, burst.run());
  return best;
}

double measure_sustained_flops(cpu::Isa isa, Precision precision, int num_threads) {
  constexpr int kBursts = 25;
  std::vector<double> rates(static_cast<std::size_t>(num_threads));
  {
    std::barrier all_ready(num_threads);
    std::vector<std::jthread> threads;
    for (double& rate : rates)
      threads.emplace_back([&] {
        TileBurst burst(isa, precision);
        burst.run();
        all_ready.arrive_and_wait();
        for (int i = 0; i < kBursts; ++i) rate += burst.run() / kBursts;
      });
  }
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace tenax::compute
