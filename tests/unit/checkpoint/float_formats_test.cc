#include "checkpoint/float_formats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace tenax::checkpoint {
namespace {

using Decode = float (*)(std::uint16_t);
using Encode = std::uint16_t (*)(float);

/// Every value the format has, so that "nearest" can be found by looking.
std::vector<float> finite_values(Decode decode) {
  std::vector<float> values;
  for (std::uint32_t bits = 0; bits < 0x8000; ++bits) {
    const float v = decode(static_cast<std::uint16_t>(bits));
    if (std::isfinite(v)) values.push_back(v);
  }
  return values;
}

void expect_nearest_even(Encode encode, Decode decode, float x, const std::vector<float>& values) {
  const auto above = std::lower_bound(values.begin(), values.end(), x);
  if (above == values.end() || above == values.begin()) return;
  const double over = static_cast<double>(*above) - x;
  const double under = static_cast<double>(x) - *(above - 1);
  const auto index = static_cast<std::uint16_t>(above - values.begin());
  const std::uint16_t expected = over < under || (over == under && index % 2 == 0)
                                     ? index
                                     : static_cast<std::uint16_t>(index - 1);
  EXPECT_EQ(encode(x), expected) << x;
  EXPECT_EQ(encode(-x), expected | 0x8000) << x;
  EXPECT_EQ(decode(encode(x)), values[expected]) << x;
}

void expect_rounds_to_nearest(Encode encode, Decode decode) {
  const std::vector<float> values = finite_values(decode);
  std::mt19937_64 rng(7);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(rng()) & 0x7fffffff);
    if (std::isfinite(x)) expect_nearest_even(encode, decode, x, values);
  }
  for (int i = 0; i < 200000; ++i) {  // where both formats have many values
    expect_nearest_even(encode, decode, std::ldexp(static_cast<float>(rng() >> 40), -40), values);
  }
  for (std::size_t i = 1; i < values.size(); ++i) {  // exact ties
    const double middle = (static_cast<double>(values[i - 1]) + values[i]) / 2;
    if (static_cast<double>(static_cast<float>(middle)) != middle) continue;
    expect_nearest_even(encode, decode, static_cast<float>(middle), values);
  }
}

TEST(FloatFormats, Bf16IsRoundedToTheNearestWithTiesToEven) {
  expect_rounds_to_nearest(to_bf16, from_bf16);
}

TEST(FloatFormats, F16IsRoundedToTheNearestWithTiesToEven) {
  expect_rounds_to_nearest(to_f16, from_f16);
}

TEST(FloatFormats, EveryValueOfTheShortFormatsSurvivesTheWayThroughFloat) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    if (std::isnan(from_f16(bits))) {
      EXPECT_TRUE(std::isnan(from_f16(to_f16(from_f16(bits)))));
    } else {
      EXPECT_EQ(to_f16(from_f16(bits)), bits);
    }
    if (std::isnan(from_bf16(bits))) {
      EXPECT_TRUE(std::isnan(from_bf16(to_bf16(from_bf16(bits)))));
    } else {
      EXPECT_EQ(to_bf16(from_bf16(bits)), bits);
    }
  }
}

TEST(FloatFormats, KnownValuesHaveTheirBits) {
  EXPECT_EQ(to_f16(1.0f), 0x3c00);
  EXPECT_EQ(to_f16(-2.0f), 0xc000);
  EXPECT_EQ(to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(to_f16(0x1p-24f), 0x0001);
  EXPECT_EQ(to_f16(0x1p-25f), 0x0000);
  EXPECT_EQ(to_f16(-0.0f), 0x8000);
  EXPECT_EQ(to_f16(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(FloatFormats, TheFirstValueThatDoesNotFitIsNamed) {
  std::vector<std::byte> out(8);
  const std::vector<float> values{1, std::numeric_limits<float>::infinity(), 70000, 80000};
  EXPECT_EQ(encode_floats(values, FloatFormat::kF16, out), std::optional<std::size_t>(2));
  EXPECT_EQ(encode_floats(values, FloatFormat::kBf16, out), std::nullopt);
}

}  // namespace
}  // namespace tenax::checkpoint
