#include "compute/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "common/counter_rng.h"
#include "compute/aligned_buffer.h"
#include "compute/cpu/gemm_call.h"

namespace tenax::compute {
namespace {

std::vector<float> random_floats(std::size_t n, std::uint64_t stream) {
  const CounterRng rng(17, stream);
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = rng.normal(i);
  return x;
}

struct Operands {
  GemmShape shape;
  std::int64_t stride_a, stride_b, stride_c;
  std::vector<float> a, b, c;
};

enum class Form { kNt, kNn, kTn };

/// Rows are longer than the matrices are wide, so that a wrong stride shows.
Operands make_operands(Form form, const GemmShape& s) {
  const std::int64_t a_rows = form == Form::kTn ? s.k : s.m;
  const std::int64_t a_columns = form == Form::kTn ? s.m : s.k;
  const std::int64_t b_rows = form == Form::kNt ? s.n : s.k;
  const std::int64_t b_columns = form == Form::kNt ? s.k : s.n;
  Operands o;
  o.shape = s;
  o.stride_a = a_columns + 3;
  o.stride_b = b_columns + 5;
  o.stride_c = s.n + 2;
  o.a = random_floats(static_cast<std::size_t>(a_rows * o.stride_a), 1);
  o.b = random_floats(static_cast<std::size_t>(b_rows * o.stride_b), 2);
  o.c = random_floats(static_cast<std::size_t>(s.m * o.stride_c), 3);
  return o;
}

void multiply(Gemm& gemm, Form form, Operands& o, Write write) {
  const ConstMatrix a{o.a.data(), o.stride_a};
  const ConstMatrix b{o.b.data(), o.stride_b};
  const Matrix c{o.c.data(), o.stride_c};
  if (form == Form::kNt) gemm.nt(o.shape, a, b, c, write);
  if (form == Form::kNn) gemm.nn(o.shape, a, b, c, write);
  if (form == Form::kTn) gemm.tn(o.shape, a, b, c, write);
}

/// To the nearest number with eight significant bits, ties to even.
double bf16(float x) {
  int exponent = 0;
  const double mantissa = std::frexp(static_cast<double>(x), &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8);
}

/// Every element of the product against a sum in double; elements beyond the product must be
/// untouched.
void expect_product(Gemm& gemm, Precision precision, Form form, const GemmShape& s, Write write) {
  const auto factor = [&](float x) {
    return precision == Precision::kBf16 ? bf16(x) : static_cast<double>(x);
  };
  Operands o = make_operands(form, s);
  const std::vector<float> before = o.c;
  multiply(gemm, form, o, write);
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < o.stride_c; ++j) {
      const auto at = static_cast<std::size_t>(i * o.stride_c + j);
      if (j >= s.n) {
        ASSERT_EQ(o.c[at], before[at]) << "element (" << i << ", " << j << ") is not of C";
        continue;
      }
      double sum = write == Write::kAdd ? before[at] : 0;
      double magnitude = std::abs(sum);
      for (std::int64_t k = 0; k < s.k; ++k) {
        const float a = o.a[static_cast<std::size_t>(form == Form::kTn ? k * o.stride_a + i
                                                                       : i * o.stride_a + k)];
        const float b = o.b[static_cast<std::size_t>(form == Form::kNt ? j * o.stride_b + k
                                                                       : k * o.stride_b + j)];
        sum += factor(a) * factor(b);
        magnitude += std::abs(factor(a) * factor(b));
      }
      // k + 1 roundings of at most 2^-24 of the terms' magnitudes, and the products' own where they
      // are not fused.
      const double bound = std::ldexp(static_cast<double>(s.k + 2) * magnitude, -24);
      ASSERT_NEAR(o.c[at], sum, bound) << "element (" << i << ", " << j << ")";
    }
}

struct Build {
  cpu::Isa isa;
  Precision precision;
};

class GemmOnIsa : public testing::TestWithParam<Build> {};

TEST_P(GemmOnIsa, EqualsSumsInDoubleForOddShapes) {
  Gemm gemm(GetParam().isa, GetParam().precision);
  std::vector<GemmShape> shapes = {
      {1, 1, 1},    {1, 1, 300},  {2, 3, 4},     {12, 32, 256}, {13, 33, 257}, {11, 31, 255},
      {5, 70, 1},   {70, 5, 3},   {24, 64, 512}, {25, 65, 600}, {145, 40, 20}, {300, 17, 29},
      {7, 2049, 9}, {96, 96, 64}, {1, 257, 64},  {64, 1, 64},   {3, 7, 513},
  };
  // Every number of rows behind the whole tiles, and widths at which B is packed in other ways.
  for (std::int64_t m = 1; m <= 26; ++m) shapes.push_back({m, 8 + 2 * m, 40 + m});
  for (const GemmShape& s : shapes)
    for (const Form form : {Form::kNt, Form::kNn, Form::kTn})
      for (const Write write : {Write::kOverwrite, Write::kAdd}) {
        SCOPED_TRACE(testing::Message()
                     << s.m << " x " << s.n << " x " << s.k << " form " << static_cast<int>(form)
                     << " write " << static_cast<int>(write));
        expect_product(gemm, GetParam().precision, form, s, write);
      }
}

TEST_P(GemmOnIsa, OverwritesWhatWasNotFinite) {
  Gemm gemm(GetParam().isa, GetParam().precision);
  Operands o = make_operands(Form::kNt, {5, 7, 3});
  for (float& c : o.c) c = NAN;
  multiply(gemm, Form::kNt, o, Write::kOverwrite);
  for (std::int64_t i = 0; i < 5; ++i)
    for (std::int64_t j = 0; j < 7; ++j)
      EXPECT_TRUE(std::isfinite(o.c[static_cast<std::size_t>(i * o.stride_c + j)]));
}

TEST_P(GemmOnIsa, BitsOfARowDoNotDependOnTheOtherRows) {
  Gemm gemm(GetParam().isa, GetParam().precision);
  Operands whole = make_operands(Form::kNt, {150, 37, 300});
  Operands parts = whole;
  multiply(gemm, Form::kNt, whole, Write::kAdd);
  for (std::int64_t first = 0; first < 150; first += 7) {
    const GemmShape rows{std::min<std::int64_t>(7, 150 - first), 37, 300};
    gemm.nt(rows, {parts.a.data() + first * parts.stride_a, parts.stride_a},
            {parts.b.data(), parts.stride_b},
            {parts.c.data() + first * parts.stride_c, parts.stride_c}, Write::kAdd);
  }
  EXPECT_EQ(std::memcmp(whole.c.data(), parts.c.data(), whole.c.size() * sizeof(float)), 0);
}

std::vector<Build> builds() {
  std::vector<Build> all;
  for (const Precision precision : {Precision::kFp32, Precision::kBf16})
    for (const cpu::Isa isa : cpu::available_isas()) all.push_back({isa, precision});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Builds, GemmOnIsa, testing::ValuesIn(builds()), [](const auto& build) {
  return std::string(cpu::to_string(build.param.isa)) + "_" +
         std::string(to_string(build.param.precision));
});

TEST(Gemm, Avx2AndAvx512GiveEqualBits) {
  if (cpu::best_isa() != cpu::Isa::kAvx512) GTEST_SKIP() << "this processor has no AVX-512";
  Gemm narrow(cpu::Isa::kAvx2);
  Gemm wide(cpu::Isa::kAvx512);
  for (const Form form : {Form::kNt, Form::kNn, Form::kTn}) {
    Operands x = make_operands(form, {101, 203, 555});
    Operands y = x;
    multiply(narrow, form, x, Write::kAdd);
    multiply(wide, form, y, Write::kAdd);
    EXPECT_EQ(std::memcmp(x.c.data(), y.c.data(), x.c.size() * sizeof(float)), 0);
  }
}

TEST(Bf16Gemm, EveryBuildGivesEqualBits) {
  for (const Form form : {Form::kNt, Form::kNn, Form::kTn})
    for (const GemmShape& shape : {GemmShape{101, 203, 555}, {12, 32, 1}, {13, 5, 257}}) {
      Operands expected = make_operands(form, shape);
      // From 2^-40 to 2^40, so that sums round in every way.
      for (std::size_t i = 0; i < expected.a.size(); ++i)
        expected.a[i] = std::ldexp(expected.a[i], static_cast<int>(i * 7 % 41) - 20);
      const Operands inputs = expected;
      Gemm portable(cpu::Isa::kPortable, Precision::kBf16);
      multiply(portable, form, expected, Write::kAdd);
      for (const cpu::Isa isa : cpu::available_isas()) {
        Operands o = inputs;
        Gemm gemm(isa, Precision::kBf16);
        multiply(gemm, form, o, Write::kAdd);
        EXPECT_EQ(std::memcmp(o.c.data(), expected.c.data(), o.c.size() * sizeof(float)), 0)
            << gemm.description();
      }
    }
}

TEST(Bf16Gemm, AVX512WithoutTheInstructionForPairsGivesTheSameBits) {
  // Called directly: which of the two Gemm takes depends on what is faster here.
  if (!cpu::has_bf16_products()) GTEST_SKIP() << "this processor does not multiply bfloat16 pairs";
#if defined(__x86_64__)
  AlignedBuffer pack_a(static_cast<std::size_t>(cpu::kPackAFloats));
  AlignedBuffer pack_b(static_cast<std::size_t>(cpu::kPackBFloats));
  const auto multiply_by = [&](void (*kernel)(const cpu::GemmCall&), Operands& o) {
    cpu::GemmCall call;
    call.m = 50;
    call.n = 70;
    call.k = 301;
    call.a = o.a.data();
    call.a_stride_m = o.stride_a;
    call.a_stride_k = 1;
    call.b = o.b.data();
    call.b_stride_k = o.stride_b;
    call.b_stride_n = 1;
    call.c = o.c.data();
    call.c_stride = o.stride_c;
    call.bf16 = true;
    call.pack_a = pack_a.data();
    call.pack_b = pack_b.data();
    kernel(call);
  };
  Operands pairs = make_operands(Form::kNn, {50, 70, 301});
  Operands single = pairs;
  const auto before = pairs.c;
  multiply_by(cpu::gemm_avx512bf16, pairs);
  multiply_by(cpu::gemm_avx512, single);
  const std::size_t bytes = pairs.c.size() * sizeof(float);
  EXPECT_NE(std::memcmp(pairs.c.data(), before.data(), bytes), 0);
  EXPECT_EQ(std::memcmp(pairs.c.data(), single.c.data(), bytes), 0);
#endif
}

TEST(Bf16Gemm, KeepsWhatIsNotFiniteAndDropsDenormals) {
  for (const cpu::Isa isa : cpu::available_isas()) {
    Gemm gemm(isa, Precision::kBf16);
    const float b = 1.0f;
    for (const float a : {INFINITY, -INFINITY, 3.4028234e38f}) {
      float c = 0;
      gemm.nn({1, 1, 1}, {&a, 1}, {&b, 1}, {&c, 1}, Write::kOverwrite);
      EXPECT_TRUE(std::isinf(c)) << gemm.description() << " of " << a;
    }
    const float nan = std::nanf("1");
    float c = 0;
    gemm.nn({1, 1, 1}, {&nan, 1}, {&b, 1}, {&c, 1}, Write::kOverwrite);
    EXPECT_TRUE(std::isnan(c)) << gemm.description();
    const float denormal = 1e-39f;
    gemm.nn({1, 1, 1}, {&denormal, 1}, {&b, 1}, {&c, 1}, Write::kOverwrite);
    EXPECT_EQ(c, 0.0f) << gemm.description();
  }
}

}  // namespace
}  // namespace tenax::compute
