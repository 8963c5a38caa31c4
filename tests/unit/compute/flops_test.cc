#include "compute/flops.h"

#include <gtest/gtest.h>

namespace tenax::compute {
namespace {

TEST(FlopsPerToken, AreSixForEachWeightAndTwelveForEachScore) {
  ModelOptions gpt2;
  gpt2.vocabulary_size = 50257;
  gpt2.max_sequence_length = 1024;
  gpt2.width = 768;
  gpt2.num_layers = 12;
  gpt2.num_heads = 12;
  // 6 (12 L C^2 + V C) + 12 L T C by hand.
  const double weights = 12.0 * 12 * 768 * 768 + 50257.0 * 768;
  EXPECT_DOUBLE_EQ(flops_per_token(gpt2, 64), 6 * weights + 12.0 * 12 * 64 * 768);
  EXPECT_NEAR(flops_per_token(gpt2, 64), 748e6, 1e6);
  gpt2.tied_output = false;  // a lookup costs nothing
  gpt2.padded_vocabulary_size = 50304;
  EXPECT_NEAR(flops_per_token(gpt2, 64), 748e6, 1e6);
}

TEST(FlopsPerToken, KnowGatesAndSharedHeads) {
  ModelOptions llama;
  llama.vocabulary_size = 100;
  llama.width = 64;
  llama.num_layers = 1;
  llama.num_heads = 4;
  llama.num_kv_heads = 1;
  llama.head_dim = 32;
  llama.ffn_width = 96;
  llama.activation = ActivationKind::kSwiglu;
  const double weights = 64.0 * (2 * 4 + 2 * 1) * 32 + 3.0 * 64 * 96 + 100 * 64;
  EXPECT_DOUBLE_EQ(flops_per_token(llama, 10), 6 * weights + 12.0 * 10 * 4 * 32);
}

TEST(PeakFlops, AreMeasuredOnEveryBuild) {
  for (const cpu::Isa isa : cpu::available_isas())
    for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
      EXPECT_GT(measure_peak_flops(isa, precision), 1e8) << cpu::to_string(isa);
      EXPECT_GT(measure_sustained_flops(isa, precision, 2), 1e8) << cpu::to_string(isa);
    }
}

TEST(PeakFlops, GrowsWithTheWorkersUpToWhatTheyShare) {
  EXPECT_EQ((PeakFlops{2, 0}.of(3)), 6);
  EXPECT_EQ((PeakFlops{2, 5}.of(2)), 4);
  EXPECT_EQ((PeakFlops{2, 5}.of(3)), 5);
  EXPECT_EQ((PeakFlops{0, 0}.of(3)), 0);
}

}  // namespace
}  // namespace tenax::compute
