// The vector kernels' elementary functions against the C library in double.
#include "compute/cpu/vector_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace tenax::compute::cpu {
namespace {

double expected_value(Pointwise f, double x) {
  switch (f) {
    case Pointwise::kGeluErf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Pointwise::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Pointwise::kRelu:
      return x > 0 ? x : 0;
    case Pointwise::kSilu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

double expected_slope(Pointwise f, double x) {
  if (f == Pointwise::kRelu) return x > 0 ? 1 : 0;
  constexpr double kStep = 1e-5;
  return (expected_value(f, x + kStep) - expected_value(f, x - kStep)) / (2 * kStep);
}

/// -12 to 12 in steps of 2^-9, 0 left out for ReLU's sake, and far values.
std::vector<float> arguments() {
  std::vector<float> x = {-1e4f, -100, -50, -20, 20, 50, 100, 1e4f};
  for (int i = -12 * 512; i <= 12 * 512; ++i)
    if (i != 0) x.push_back(static_cast<float>(i) / 512);
  return x;
}

class VectorOps : public testing::TestWithParam<Isa> {};

TEST_P(VectorOps, ActivationsAndTheirSlopesAreGoodToThreeRoundings) {
  const std::vector<float> x = arguments();
  const std::vector<float> ones(x.size(), 1.0f);
  for (const Pointwise f :
       {Pointwise::kGeluErf, Pointwise::kGeluTanh, Pointwise::kRelu, Pointwise::kSilu}) {
    std::vector<float> y(x.size()), slope(x.size());
    ActivationCall call;
    call.function = f;
    call.count = static_cast<std::int64_t>(x.size());
    call.up = x.data();
    call.out = y.data();
    vector_ops(GetParam()).activation_forward(call);
    call.dout = ones.data();
    call.dup = slope.data();
    vector_ops(GetParam()).activation_backward(call);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto v = static_cast<double>(x[i]);
      // The functions are x times a value in [0, 1] that is good to about three roundings, 2e-7.
      ASSERT_NEAR(y[i], expected_value(f, v), 2e-7 * (1 + std::abs(v)))
          << "function " << static_cast<int>(f) << " of " << v;
      // In the slope x and x^2 multiply the roundings of 1 - tanh^2, until that is zero beyond 6.
      ASSERT_NEAR(slope[i], expected_slope(f, v), 2e-7 * (2 + std::min(v * v, 36.0)))
          << "slope of " << static_cast<int>(f) << " at " << v;
    }
  }
}

TEST_P(VectorOps, NoFunctionHidesNotANumber) {
  for (const Pointwise f :
       {Pointwise::kGeluErf, Pointwise::kGeluTanh, Pointwise::kRelu, Pointwise::kSilu}) {
    const std::vector<float> x(17, NAN);
    std::vector<float> y(17);
    ActivationCall call;
    call.function = f;
    call.count = 17;
    call.up = x.data();
    call.out = y.data();
    vector_ops(GetParam()).activation_forward(call);
    for (const float v : y) EXPECT_TRUE(std::isnan(v)) << static_cast<int>(f);
  }
}

TEST_P(VectorOps, SoftmaxSumsToOneAndSeesNoLaterKey) {
  constexpr std::int64_t kRows = 5, kKeys = 40, kFirst = 30;
  std::vector<float> scores(kRows * kKeys);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = 30 * std::sin(static_cast<float>(i));
  const std::vector<float> raw = scores;
  std::vector<float> log_sum(kRows);
  SoftmaxCall call;
  call.rows = kRows;
  call.keys = kKeys;
  call.first_query = kFirst;
  call.scores = scores.data();
  call.scale = 0.5f;
  call.slope = 0.25f;
  call.log_sum = log_sum.data();
  vector_ops(GetParam()).softmax_forward(call);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto score = [&](std::int64_t key) {
      return 0.5 * static_cast<double>(raw[static_cast<std::size_t>(r * kKeys + key)]) -
             0.25 * static_cast<double>(kFirst + r - key);
    };
    double total = 0;
    for (std::int64_t key = 0; key <= kFirst + r; ++key) total += std::exp(score(key));
    EXPECT_NEAR(log_sum[static_cast<std::size_t>(r)], std::log(total), 1e-5);
    for (std::int64_t key = 0; key < kKeys; ++key) {
      const double expected = key <= kFirst + r ? std::exp(score(key)) / total : 0;
      // Scores up to 20 carry roundings of 1e-6, which the exponential passes on.
      EXPECT_NEAR(scores[static_cast<std::size_t>(r * kKeys + key)], expected, 3e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, VectorOps, testing::ValuesIn(available_isas()),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

}  // namespace
}  // namespace tenax::compute::cpu
