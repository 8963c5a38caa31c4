// Single operations of the plugin on an emulated device: what is equal to the CPU bit for bit, rows
// and shapes that the tiny models do not have, and arguments that are refused.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "common/counter_rng.h"
#include "compute/adamw.h"
#include "compute/tensor_norm.h"
#include "tests/unit/cuda/emulated_device.h"

namespace tenax::compute {
namespace {

std::vector<float> random_floats(std::size_t n, std::uint64_t seed) {
  const CounterRng rng(seed, 7);
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = rng.normal(i);
  return values;
}

class CudaOperations : public testing::Test {
 protected:
  DeviceBuffer on_device(std::span<const float> host) {
    DeviceBuffer buffer = device_->allocate(host.size()).value();
    device_->write(host, buffer.span());
    return buffer;
  }
  std::vector<float> on_host(const DeviceBuffer& buffer) {
    std::vector<float> host(buffer.size());
    device_->read(buffer.span(), host);
    return host;
  }
  const CudaPlugin& plugin() { return device_->plugin(); }

  std::shared_ptr<CudaDevice> device_ = emulated_device();
};

TEST_F(CudaOperations, AdamwHasTheBitsOfTheCpu) {
  for (const std::size_t n : {1U, 5U, 64U, 1027U}) {
    std::vector<float> values = random_floats(n, 1);
    const std::vector<float> gradient = random_floats(n, 2);
    std::vector<float> m = random_floats(n, 3);
    std::vector<float> v = random_floats(n, 4);
    for (float& x : v) x *= x;
    const DeviceBuffer d_values = on_device(values);
    const DeviceBuffer d_gradient = on_device(gradient);
    const DeviceBuffer d_m = on_device(m);
    const DeviceBuffer d_v = on_device(v);
    AdamwStep step;
    step.step = 3;
    step.learning_rate = 1e-3;
    step.gradient_scale = 0.37;
    for (const bool decay : {true, false}) {
      const AdamwRange on_gpu{d_values.span(), d_gradient.span(), d_m.span(), d_v.span(), decay};
      device_->adamw({}, step, {&on_gpu, 1});
      adamw_update({}, step, {values, gradient, m, v, decay});
    }
    EXPECT_EQ(on_host(d_values), values);
    EXPECT_EQ(on_host(d_m), m);
    EXPECT_EQ(on_host(d_v), v);
  }
}

TEST_F(CudaOperations, AdamwOfManyRangesIsOneLaunchWithTheBitsOfTheCpu) {
  const auto num_launches = emulation_function<std::size_t()>("tenax_emulation_num_launches");
  const auto copied = emulation_function<std::size_t(int)>("tenax_emulation_copied_bytes");
  constexpr std::size_t kSize = 9000;
  std::vector<float> values = random_floats(kSize, 1);
  const std::vector<float> gradient = random_floats(kSize, 2);
  std::vector<float> m = random_floats(kSize, 3);
  std::vector<float> v = random_floats(kSize, 4);
  for (float& x : v) x *= x;
  const DeviceBuffer d_values = on_device(values);
  const DeviceBuffer d_gradient = on_device(gradient);
  const DeviceBuffer d_m = on_device(m);
  const DeviceBuffer d_v = on_device(v);
  const CudaMemory copy = device_->allocate_bytes(2 * kSize, "a copy").value();
  device_->keep_copy(d_values.span(), copy.data());
  // Some begin where four elements at once can be taken and some do not; a block is more than one
  // of them, or a part of one; what lies between them stays.
  struct Piece {
    std::size_t begin;
    std::size_t size;
    bool decay;
  };
  const std::vector<Piece> pieces = {{0, 4, true},       {4, 1, false},     {5, 1027, true},
                                     {1032, 4096, true}, {6000, 0, true},   {6001, 256, false},
                                     {6260, 8, false},   {7000, 2000, true}};
  std::vector<AdamwRange> on_gpu;
  for (const Piece& p : pieces)
    on_gpu.push_back(
        {d_values.span().subspan(p.begin, p.size), d_gradient.span().subspan(p.begin, p.size),
         d_m.span().subspan(p.begin, p.size), d_v.span().subspan(p.begin, p.size), p.decay});
  for (const std::int64_t number : {1, 2, 3}) {
    const AdamwStep step{number, 1e-3, 0.37};
    ASSERT_TRUE(device_->status());
    const std::size_t launches = num_launches();
    const std::size_t written = copied(0);
    device_->adamw({}, step, on_gpu);
    ASSERT_TRUE(device_->status());
    EXPECT_EQ(num_launches() - launches, 1u);
    EXPECT_EQ(copied(0) - written > 0, number == 1) << "the table is written once";
    for (const Piece& p : pieces) {
      if (p.size == 0) continue;
      const auto part = [&](std::vector<float>& all) {
        return std::span(all).subspan(p.begin, p.size);
      };
      adamw_update(
          {}, step,
          {part(values), std::span(gradient).subspan(p.begin, p.size), part(m), part(v), p.decay});
    }
  }
  EXPECT_EQ(on_host(d_values), values);
  EXPECT_EQ(on_host(d_m), m);
  EXPECT_EQ(on_host(d_v), v);
  const auto* const bf16 = reinterpret_cast<const std::uint16_t*>(copy.data());
  for (const Piece& p : pieces)
    for (std::size_t i = p.begin; i < p.begin + p.size; ++i)
      ASSERT_NEAR(std::bit_cast<float>(static_cast<std::uint32_t>(bf16[i]) << 16), values[i],
                  std::abs(values[i]) / 256)  // half a bit of eight
          << i;
  device_->forget_copy(copy.data());
}

TEST_F(CudaOperations, SumsOfSquaresHaveTheBitsOfTheCpu) {
  constexpr std::size_t kSizes[] = {1, 15, 4096, 4097, 40000};
  std::vector<DeviceBuffer> buffers;
  std::vector<std::vector<double>> expected;
  std::vector<std::vector<double>> sums;
  std::vector<NormRange> ranges;
  for (const std::size_t n : kSizes) {
    const std::vector<float> x = random_floats(n, n);
    expected.emplace_back(num_norm_chunks(n));
    chunk_sums_of_squares(x, expected.back());
    buffers.push_back(on_device(x));
    sums.emplace_back(num_norm_chunks(n));
    ranges.push_back({buffers.back().span(), sums.back()});
  }
  device_->chunk_squares(ranges);
  EXPECT_EQ(sums, expected);
}

TEST_F(CudaOperations, AddMayBeInPlaceAndUnaligned) {
  const std::vector<float> a = random_floats(131, 1);
  const std::vector<float> b = random_floats(131, 2);
  const DeviceBuffer x = on_device(a);
  const DeviceBuffer y = on_device(b);
  device_->add(x.span().subspan(1), y.span().subspan(1), x.span().subspan(1));
  const std::vector<float> sum = on_host(x);
  EXPECT_EQ(sum[0], a[0]);
  for (std::size_t i = 1; i < a.size(); ++i) EXPECT_EQ(sum[i], a[i] + b[i]);
}

TEST_F(CudaOperations, Bfloat16RoundsToNearestEven) {
  // 1 + 2^-8 lies between 1 and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
  const std::vector<float> x = {1.00390625f, 1.01171875f, -1.0039064f, 0.0f,
                                3.0e38f,     1e-40f,      0.1f,        -7.0f};
  const DeviceBuffer from = on_device(x);
  const DeviceBuffer half = device_->allocate(x.size()).value();
  const DeviceBuffer back = device_->allocate(x.size()).value();
  const auto n = static_cast<std::int64_t>(x.size());
  device_->queue(plugin().run_cast, static_cast<const void*>(from.data()),
                 std::int32_t{TENAX_CUDA_F32}, static_cast<void*>(half.data()),
                 std::int32_t{TENAX_CUDA_BF16}, n);
  device_->queue(plugin().run_cast, static_cast<const void*>(half.data()),
                 std::int32_t{TENAX_CUDA_BF16}, static_cast<void*>(back.data()),
                 std::int32_t{TENAX_CUDA_F32}, n);
  const std::vector<float> y = on_host(back);
  EXPECT_EQ(y[0], 1.0f);
  EXPECT_EQ(y[1], 1.015625f);
  EXPECT_EQ(y[2], -1.0078125f);
  EXPECT_EQ(y[3], 0.0f);
  for (std::size_t i = 0; i < y.size(); ++i)
    EXPECT_NEAR(y[i], x[i], std::abs(x[i]) / 256 + 1e-39f) << i;
}

TEST_F(CudaOperations, ANormAddsTheResidualOnTheWay) {
  constexpr std::int64_t kRows = 5;
  for (const std::int64_t n : {7, 200}) {
    const auto size = static_cast<std::size_t>(kRows * n);
    const std::vector<float> x = random_floats(size, 1);
    const std::vector<float> residual = random_floats(size, 2);
    const std::vector<float> weight = random_floats(static_cast<std::size_t>(n), 3);
    const DeviceBuffer d_x = on_device(x);
    const DeviceBuffer d_residual = on_device(residual);
    const DeviceBuffer d_weight = on_device(weight);
    const DeviceBuffer sum = device_->allocate(size).value();
    const DeviceBuffer y = device_->allocate(size).value();
    const DeviceBuffer mean = device_->allocate(kRows).value();
    const DeviceBuffer rstd = device_->allocate(kRows).value();
    tenax_cuda_norm call{};
    call.type = TENAX_CUDA_F32;
    call.epsilon = 1e-5f;
    call.rows = kRows;
    call.n = call.x_outer = call.y_outer = n;
    call.group = 1;
    call.x = d_x.data();
    call.residual = d_residual.data();
    call.sum = sum.data();
    call.weight = d_weight.data();
    call.mean = mean.data();
    call.rstd = rstd.data();
    call.y = y.data();
    device_->run(plugin().run_norm, call);
    const std::vector<float> out = on_host(y);
    for (std::int64_t r = 0; r < kRows; ++r) {
      double expected_mean = 0;
      double variance = 0;
      const auto s = [&](std::int64_t i) {
        const auto at = static_cast<std::size_t>(r * n + i);
        return static_cast<double>(x[at] + residual[at]);
      };
      for (std::int64_t i = 0; i < n; ++i) expected_mean += s(i) / static_cast<double>(n);
      for (std::int64_t i = 0; i < n; ++i)
        variance += (s(i) - expected_mean) * (s(i) - expected_mean) / static_cast<double>(n);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(r * n + i);
        EXPECT_EQ(sum.data()[at], x[at] + residual[at]);
        EXPECT_NEAR(out[at],
                    (s(i) - expected_mean) / std::sqrt(variance + 1e-5) *
                        static_cast<double>(weight[static_cast<std::size_t>(i)]),
                    1e-5);
      }
    }
  }
}

TEST_F(CudaOperations, ColumnSumsCoverManyChunksOfRows) {
  constexpr std::int64_t kRows = 1000;
  constexpr std::int64_t kColumns = 37;
  constexpr std::int64_t kLd = 40;
  const std::vector<float> x = random_floats(kRows * kLd, 5);
  const DeviceBuffer d_x = on_device(x);
  DeviceBuffer sums = on_device(std::vector<float>(kColumns, 1.0f));
  const tenax_cuda_column_sums call{TENAX_CUDA_F32, 0,          kRows, kColumns, kLd,
                                    d_x.data(),     sums.data()};
  device_->run(plugin().run_column_sums, call);
  const std::vector<float> actual = on_host(sums);
  for (std::int64_t j = 0; j < kColumns; ++j) {
    double expected = 1;
    for (std::int64_t r = 0; r < kRows; ++r)
      expected += static_cast<double>(x[static_cast<std::size_t>(r * kLd + j)]);
    EXPECT_NEAR(actual[static_cast<std::size_t>(j)], expected, 1e-4);
  }
}

TEST_F(CudaOperations, ABiasGradientBesideAProductIsTheColumnsSum) {
  constexpr std::int64_t kTokens = 9;
  constexpr std::int64_t kOut = 6;
  constexpr std::int64_t kIn = 4;
  const std::vector<float> dy = random_floats(kTokens * kOut, 1);
  const std::vector<float> x = random_floats(kTokens * kIn, 2);
  const DeviceBuffer d_dy = on_device(dy);
  const DeviceBuffer d_x = on_device(x);
  const DeviceBuffer dw = device_->allocate(kOut * kIn).value();
  const DeviceBuffer db = device_->allocate(kOut).value();
  tenax_cuda_matmul call{};
  call.transpose_a = 1;
  call.m = call.lda = kOut;
  call.n = call.ldb = call.ldc = call.ldd = kIn;
  call.k = kTokens;
  call.a = d_dy.data();
  call.b = d_x.data();
  call.c = call.d = dw.data();
  call.bias_gradient = db.data();
  for (int twice = 0; twice < 2; ++twice) device_->run(plugin().run_matmul, call);
  ASSERT_TRUE(device_->status());
  for (std::int64_t i = 0; i < kOut; ++i) {
    double bias = 0;
    for (std::int64_t t = 0; t < kTokens; ++t)
      bias += 2 * static_cast<double>(dy[static_cast<std::size_t>(t * kOut + i)]);
    EXPECT_NEAR(db.data()[i], bias, 1e-5);
    for (std::int64_t j = 0; j < kIn; ++j) {
      double sum = 0;
      for (std::int64_t t = 0; t < kTokens; ++t)
        sum += 2 * static_cast<double>(dy[static_cast<std::size_t>(t * kOut + i)]) *
               static_cast<double>(x[static_cast<std::size_t>(t * kIn + j)]);
      EXPECT_NEAR(dw.data()[i * kIn + j], sum, 1e-5);
    }
  }
}

TEST_F(CudaOperations, MaskedRowsAndColumnsBehindTheVocabularyGetNoGradient) {
  constexpr std::int64_t kRows = 3;
  constexpr std::int64_t kVocabulary = 5;
  constexpr std::int64_t kLd = 8;
  const std::vector<float> logits = random_floats(kRows * kLd, 3);
  const DeviceBuffer d_logits = on_device(logits);
  DeviceBuffer targets_memory = device_->allocate(4).value();
  auto* const targets = reinterpret_cast<std::int32_t*>(targets_memory.data());
  const std::int32_t wanted[] = {2, -1, 4};
  std::memcpy(targets, wanted, sizeof wanted);
  DeviceBuffer losses = device_->allocate(4 * kRows).value();
  tenax_cuda_cross_entropy call{};
  call.with_gradient = 1;
  call.rows = kRows;
  call.n = kVocabulary;
  call.ld = kLd;
  call.logit_scale = 1;
  call.logits = d_logits.data();
  call.targets = targets;
  call.loss = reinterpret_cast<double*>(losses.data());
  call.z_term = call.loss + kRows;
  device_->run(plugin().run_cross_entropy, call);
  ASSERT_TRUE(device_->status());
  const std::vector<float> gradient = on_host(d_logits);
  for (std::int64_t r = 0; r < kRows; ++r) {
    double total = 0;
    for (std::int64_t v = 0; v < kVocabulary; ++v)
      total += std::exp(static_cast<double>(logits[static_cast<std::size_t>(r * kLd + v)]));
    const bool masked = wanted[r] < 0;
    const double expected_loss =
        masked ? 0
               : std::log(total) -
                     static_cast<double>(logits[static_cast<std::size_t>(r * kLd + wanted[r])]);
    EXPECT_NEAR(call.loss[r], expected_loss, 1e-6);
    for (std::int64_t v = 0; v < kLd; ++v) {
      const auto at = static_cast<std::size_t>(r * kLd + v);
      const double p =
          masked || v >= kVocabulary ? 0 : std::exp(static_cast<double>(logits[at])) / total;
      EXPECT_NEAR(gradient[at], p - (v == wanted[r] ? 1 : 0), 1e-6) << r << " " << v;
    }
  }
}

TEST_F(CudaOperations, WrongArgumentsAreNamedAndNothingIsKeptOfThem) {
  tenax_cuda_options options{};
  tenax_cuda_context* context = nullptr;
  char message[256];
  ASSERT_EQ(plugin().create(&options, &context, message, sizeof message), TENAX_CUDA_OK);
  tenax_cuda_rope rope{};
  rope.rows = rope.length = rope.heads = 1;
  rope.head_dim = 3;
  EXPECT_EQ(plugin().run_rope(context, &rope), TENAX_CUDA_INVALID_ARGUMENT);
  EXPECT_STREQ(plugin().message(context), "rope: head_dim is not even");
  tenax_cuda_attention attention{};
  attention.batch = attention.length = attention.head_dim = 1;
  attention.heads = 3;
  attention.kv_heads = 2;
  EXPECT_EQ(plugin().run_attention(context, &attention), TENAX_CUDA_INVALID_ARGUMENT);
  EXPECT_STREQ(plugin().message(context), "attention: heads is not a multiple of kv_heads");
  EXPECT_EQ(plugin().synchronize(context), TENAX_CUDA_OK);
  plugin().destroy(context);
}

TEST_F(CudaOperations, AHeadTooLargeForSharedMemoryIsRefusedWithTheNumbers) {
  std::vector<float> memory(4 * 400);
  tenax_cuda_attention c{};
  c.batch = c.length = c.heads = c.kv_heads = 1;
  c.head_dim = c.ld = c.ld_out = 400;
  c.scale = 1;
  c.q = c.k = c.v = memory.data();
  c.out = memory.data() + 400;
  c.log_sum = memory.data() + 800;
  c.dout = c.q;
  c.dq = c.dk = c.dv = memory.data() + 1200;
  device_->run(plugin().run_attention, c);
  EXPECT_TRUE(device_->status());
  device_->run(plugin().run_attention_backward, c);
  const Status status = device_->status();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(status.error().message.find("head_dim 400 needs"), std::string::npos);
}

}  // namespace
}  // namespace tenax::compute
