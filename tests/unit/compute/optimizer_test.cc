// AdamW, learning-rate schedules and norms of tensors, each against its formula in double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "common/counter_rng.h"
#include "compute/adamw.h"
#include "compute/lr_schedule.h"
#include "compute/tensor_norm.h"

namespace tenax::compute {
namespace {

TEST(Adamw, FollowsTheFormulaInDouble) {
  constexpr std::size_t kSize = 101;
  const AdamwOptions options{0.9, 0.98, 1e-8, 0.1};
  const CounterRng rng(3, 0);
  for (const cpu::Isa isa : cpu::available_isas())
    for (const bool decay : {false, true}) {
      std::vector<float> w(kSize), m(kSize), v(kSize), g(kSize);
      std::vector<double> rw(kSize), rm(kSize), rv(kSize);
      for (std::size_t i = 0; i < kSize; ++i) w[i] = rng.normal(i), rw[i] = w[i];
      for (int step = 1; step <= 20; ++step) {
        const double rate = 0.01 * step;
        for (std::size_t i = 0; i < kSize; ++i) {
          g[i] = rng.normal(1000u * static_cast<unsigned>(step) + i);
          const double gradient = 0.25 * static_cast<double>(g[i]);
          rm[i] = 0.9 * rm[i] + 0.1 * gradient;
          rv[i] = 0.98 * rv[i] + 0.02 * gradient * gradient;
          const double m_hat = rm[i] / (1 - std::pow(0.9, step));
          const double v_hat = rv[i] / (1 - std::pow(0.98, step));
          rw[i] -= rate * ((decay ? 0.1 * rw[i] : 0) + m_hat / (std::sqrt(v_hat) + 1e-8));
        }
        adamw_update(options, {step, rate, 0.25}, {w, g, m, v, decay}, isa);
      }
      for (std::size_t i = 0; i < kSize; ++i) {
        // 20 steps of a few roundings of 6e-8 each, on values up to 4.
        EXPECT_NEAR(w[i], rw[i], 2e-5) << cpu::to_string(isa);
        EXPECT_NEAR(m[i], rm[i], 1e-6);
        EXPECT_NEAR(v[i], rv[i], 1e-6);
      }
    }
}

TEST(Adamw, BitsDependNeitherOnTheSplitNorOnTheBuild) {
  constexpr std::size_t kSize = 1003;
  const CounterRng rng(4, 0);
  std::vector<float> w(kSize), g(kSize), m(kSize), v(kSize);
  for (std::size_t i = 0; i < kSize; ++i) {
    w[i] = rng.normal(4 * i);
    g[i] = rng.normal(4 * i + 1);
    m[i] = rng.normal(4 * i + 2);
    v[i] = std::abs(rng.normal(4 * i + 3));
  }
  std::vector<float> expected;
  for (const cpu::Isa isa : cpu::available_isas())
    for (const std::size_t piece : {kSize, std::size_t{17}, std::size_t{1}}) {
      std::vector<float> w2 = w, m2 = m, v2 = v;
      for (std::size_t i = 0; i < kSize; i += piece) {
        const std::size_t n = std::min(piece, kSize - i);
        adamw_update({}, {7, 1e-3, 0.5},
                     {std::span(w2).subspan(i, n), std::span<const float>(g).subspan(i, n),
                      std::span(m2).subspan(i, n), std::span(v2).subspan(i, n), true},
                     isa);
      }
      if (expected.empty()) expected = w2;
      EXPECT_EQ(std::memcmp(w2.data(), expected.data(), kSize * sizeof(float)), 0);
    }
}

TEST(Adamw, OptionsOutOfRangeAreNamed) {
  EXPECT_TRUE(problems(AdamwOptions{}).empty());
  EXPECT_EQ(problems(AdamwOptions{1, -0.1, 0, -1}).size(), 4u);
}

TEST(LrSchedule, WarmUpIsLinearAndReachesThePeak) {
  for (const auto kind :
       {LrScheduleKind::kConstant, LrScheduleKind::kLinear, LrScheduleKind::kCosine,
        LrScheduleKind::kInverseSqrt, LrScheduleKind::kWsd}) {
    const LrScheduleOptions o{kind, 0.8, 10, 110, 20, 0.1};
    EXPECT_DOUBLE_EQ(learning_rate(o, 1), 0.08);
    EXPECT_DOUBLE_EQ(learning_rate(o, 5), 0.4);
    EXPECT_DOUBLE_EQ(learning_rate(o, 10), 0.8);
    for (std::int64_t step = 11; step < 300; ++step)
      EXPECT_LE(learning_rate(o, step), learning_rate(o, step - 1));
  }
}

TEST(LrSchedule, EachKindFollowsItsFormula) {
  LrScheduleOptions o{LrScheduleKind::kConstant, 0.8, 10, 110, 20, 0.1};
  EXPECT_DOUBLE_EQ(learning_rate(o, 1000), 0.8);
  o.kind = LrScheduleKind::kLinear;
  EXPECT_DOUBLE_EQ(learning_rate(o, 60), 0.5 * (0.8 + 0.08));
  EXPECT_DOUBLE_EQ(learning_rate(o, 110), 0.08);
  EXPECT_DOUBLE_EQ(learning_rate(o, 500), 0.08);
  o.kind = LrScheduleKind::kCosine;
  EXPECT_DOUBLE_EQ(learning_rate(o, 60), 0.5 * (0.8 + 0.08));
  EXPECT_DOUBLE_EQ(learning_rate(o, 35), 0.08 + 0.72 * 0.5 * (1 + std::cos(std::numbers::pi / 4)));
  EXPECT_DOUBLE_EQ(learning_rate(o, 110), 0.08);
  o.kind = LrScheduleKind::kInverseSqrt;
  EXPECT_DOUBLE_EQ(learning_rate(o, 40), 0.4);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1000), 0.08);
  o.kind = LrScheduleKind::kWsd;
  EXPECT_DOUBLE_EQ(learning_rate(o, 90), 0.8);
  EXPECT_DOUBLE_EQ(learning_rate(o, 100), 0.5 * (0.8 + 0.08));
  EXPECT_DOUBLE_EQ(learning_rate(o, 110), 0.08);
}

TEST(LrSchedule, OptionsThatContradictAreNamed) {
  EXPECT_TRUE(problems(LrScheduleOptions{}).empty());
  EXPECT_EQ(problems(LrScheduleOptions{LrScheduleKind::kWsd, 0, 50, 10, 5, 2}).size(), 4u);
}

TEST(TensorNorm, EqualsTheSumInLongDouble) {
  const CounterRng rng(6, 0);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4095},
                                 std::size_t{4096}, std::size_t{4097}, std::size_t{20000}}) {
    std::vector<float> x(size);
    long double exact = 0;
    for (std::size_t i = 0; i < size; ++i) {
      x[i] = rng.normal(i);
      exact += static_cast<long double>(x[i]) * x[i];
    }
    EXPECT_NEAR(sum_of_squares(x), static_cast<double>(exact), 1e-13 * static_cast<double>(exact));
  }
}

TEST(TensorNorm, PartsCutAtChunksAddUpToTheSameBits) {
  const CounterRng rng(7, 0);
  std::vector<float> x(3 * kNormChunk + 5);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = rng.normal(i);
  std::vector<double> sums(num_norm_chunks(x.size()));
  ASSERT_EQ(sums.size(), 4u);
  const std::span<const float> all(x);
  chunk_sums_of_squares(all.first(2 * kNormChunk), std::span(sums).first(2));
  chunk_sums_of_squares(all.subspan(2 * kNormChunk), std::span(sums).last(2));
  EXPECT_EQ(((sums[0] + sums[1]) + sums[2]) + sums[3], sum_of_squares(x));
}

TEST(TensorNorm, IsTheSameByEveryBuild) {
  const CounterRng rng(8, 0);
  std::vector<float> x(2 * kNormChunk + 21);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = rng.normal(i);
  std::vector<double> portable(num_norm_chunks(x.size()));
  chunk_sums_of_squares(x, portable, cpu::Isa::kPortable);
  for (const cpu::Isa isa : {cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (!cpu::is_available(isa)) continue;
    std::vector<double> sums(portable.size());
    chunk_sums_of_squares(x, sums, isa);
    EXPECT_EQ(sums, portable) << cpu::to_string(isa);
  }
}

}  // namespace
}  // namespace tenax::compute
