// What of the plugin is plain C++: meanings of error codes, plans as text, products in column-major
// order, where libraries are looked for, when cuDNN is asked, and the loading of a plugin.
#include <gtest/gtest.h>

#include <fstream>

#include "compute/cuda/attention_plan.h"
#include "compute/cuda/errors.h"
#include "compute/cuda/library.h"
#include "compute/cuda/matmul.h"
#include "compute/cuda_plugin.h"

namespace tenax::cuda {
namespace {

TEST(CudaErrors, FaultsThatBreakTheContextAreToldFromThoseThatDoNot) {
  for (const int lost :
       {214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 999})
    EXPECT_EQ(status_of_cuda(lost), TENAX_CUDA_DEVICE_LOST) << lost;
  for (const int missing : {3, 34, 35, 46, 100, 101, 802, 803, 804})
    EXPECT_EQ(status_of_cuda(missing), TENAX_CUDA_UNAVAILABLE) << missing;
  EXPECT_EQ(status_of_cuda(0), TENAX_CUDA_OK);
  EXPECT_EQ(status_of_cuda(2), TENAX_CUDA_OUT_OF_MEMORY);
  EXPECT_EQ(status_of_cuda(701), TENAX_CUDA_OUT_OF_MEMORY);
  EXPECT_EQ(status_of_cuda(1), TENAX_CUDA_INVALID_ARGUMENT);
  EXPECT_EQ(status_of_cuda(209), TENAX_CUDA_UNSUPPORTED);
  EXPECT_EQ(status_of_cuda(5555), TENAX_CUDA_INTERNAL);
}

TEST(CudaErrors, LibrariesSpeakTheSameWords) {
  EXPECT_EQ(status_of_cublas(0), TENAX_CUDA_OK);
  EXPECT_EQ(status_of_cublas(1), TENAX_CUDA_UNAVAILABLE);
  EXPECT_EQ(status_of_cublas(13), TENAX_CUDA_DEVICE_LOST);
  EXPECT_EQ(status_of_cublas(15), TENAX_CUDA_UNSUPPORTED);
  EXPECT_EQ(status_of_cudnn(0), TENAX_CUDA_OK);
  EXPECT_EQ(status_of_cudnn(1001), TENAX_CUDA_UNAVAILABLE);
  EXPECT_EQ(status_of_cudnn(1008), TENAX_CUDA_UNAVAILABLE);
  EXPECT_EQ(status_of_cudnn(2002), TENAX_CUDA_INVALID_ARGUMENT);
  EXPECT_EQ(status_of_cudnn(3001), TENAX_CUDA_UNSUPPORTED);
  EXPECT_EQ(status_of_cudnn(4004), TENAX_CUDA_OUT_OF_MEMORY);
  EXPECT_EQ(status_of_cudnn(5001), TENAX_CUDA_DEVICE_LOST);
  EXPECT_EQ(status_of_nccl(0), TENAX_CUDA_OK);
  EXPECT_EQ(status_of_nccl(1), TENAX_CUDA_DEVICE_LOST);
  EXPECT_EQ(status_of_nccl(6), TENAX_CUDA_REMOTE_ERROR);
  EXPECT_EQ(status_of_nccl(7), TENAX_CUDA_IN_PROGRESS);
}

TEST(CudaErrors, MessagesSayWhatToDo) {
  EXPECT_EQ(cuda_message("cudaGetDeviceCount", 100, "cudaErrorNoDevice",
                         "no CUDA-capable device is detected"),
            "cudaGetDeviceCount: cudaErrorNoDevice (100): no CUDA-capable device is detected; no "
            "GPU is visible "
            "(nvidia-smi, CUDA_VISIBLE_DEVICES)");
  EXPECT_EQ(
      memory_message("cudaMalloc", std::uint64_t{3} << 30, std::uint64_t{1} << 29,
                     std::uint64_t{80} << 30),
      "cudaMalloc: needs 3.0 GiB of device memory; of 80.0 GiB on the device 512.0 MiB are free");
  EXPECT_EQ(xid_meaning(79), "the GPU has fallen off the bus: the host must restart");
  EXPECT_EQ(xid_meaning(7), "");
  EXPECT_EQ(throttle_reasons(0x3), "none");
  EXPECT_EQ(throttle_reasons(0x44), "power cap, hardware thermal slowdown");
}

TEST(CudaErrors, TextsAreCutToTheBuffer) {
  char buffer[4] = "xxx";
  copy_text("abcdef", buffer, sizeof buffer);
  EXPECT_STREQ(buffer, "abc");
  copy_text("abc", nullptr, 0);
}

tenax_cuda_matmul linear_call() {
  tenax_cuda_matmul c{};
  c.type = c.out_type = TENAX_CUDA_BF16;
  c.transpose_b = 1;
  c.m = 64;
  c.n = 32;
  c.k = c.lda = c.ldb = 16;
  c.ldd = 96;
  return c;
}

TEST(MatmulPlan, ALineHoldsAnAlgorithmForAShape) {
  MatmulAlgorithm algorithm;
  algorithm.id = 66;
  algorithm.tile = 20;
  algorithm.split_k = -1;
  algorithm.stages = 36;
  algorithm.cluster_shape = 2;
  const std::string line = plan_line(matmul_key(linear_call()), algorithm);
  EXPECT_EQ(line,
            "matmul bf16-bf16 nt m64 n32 k16 ld 16 16 0 96 0 epilogue 0 align 16 = id 66 tile 20 "
            "splitk -1 "
            "reduction 0 "
            "swizzle 0 custom 0 stages 36 inner 0 cluster 2");
  std::string key;
  MatmulAlgorithm read;
  ASSERT_TRUE(parse_plan_line(line, key, read));
  EXPECT_EQ(key, matmul_key(linear_call()));
  EXPECT_EQ(read, algorithm);
  for (const std::string& wrong :
       {std::string("matmul x"), line + " more", std::string("attention ") + line,
        line.substr(0, line.size() - 2)})
    EXPECT_FALSE(parse_plan_line(wrong, key, read)) << wrong;
}

TEST(MatmulPlan, WhateverAnAlgorithmDependsOnIsInTheKey) {
  const std::string key = matmul_key(linear_call());
  alignas(16) float memory[8] = {};
  const auto changed = [&](auto&& change) {
    tenax_cuda_matmul c = linear_call();
    change(c);
    return matmul_key(c);
  };
  EXPECT_NE(changed([](auto& c) { c.out_type = TENAX_CUDA_F32; }), key);
  EXPECT_NE(changed([](auto& c) { c.transpose_a = 1; }), key);
  EXPECT_NE(changed([](auto& c) { c.ldb = 17; }), key);
  EXPECT_NE(changed([&](auto& c) { c.bias = memory; }), key);
  EXPECT_NE(changed([&](auto& c) { c.c = memory; }), key);
  EXPECT_NE(changed([&](auto& c) { c.bias_gradient = memory; }), key);
  EXPECT_NE(changed([](auto& c) { c.epilogue = TENAX_CUDA_EPILOGUE_DGELU; }), key);
  EXPECT_NE(changed([&](auto& c) { c.b = memory + 1; }), key) << "aligned to 4 bytes only";
  // Where the data lies is not.
  EXPECT_EQ(changed([&](auto& c) { c.a = memory; }), key);
}

/// Element (row, column) of op(buffer) in column-major order.
float at(const std::vector<float>& buffer, const ColumnMajorProduct::Layout& l, bool transpose,
         std::int64_t row, std::int64_t column) {
  if (transpose) std::swap(row, column);
  EXPECT_LT(row, l.rows);
  EXPECT_LT(column, l.columns);
  return buffer[static_cast<std::size_t>(column * l.ld + row)];
}

TEST(MatmulPlan, TheColumnMajorProductIsTheRowMajorOne) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      tenax_cuda_matmul c{};
      c.transpose_a = ta ? 1 : 0;
      c.transpose_b = tb ? 1 : 0;
      c.m = 3;
      c.n = 4;
      c.k = 5;
      c.lda = 7;
      c.ldb = 8;
      c.ldd = 6;
      std::vector<float> a(49);
      std::vector<float> b(64);
      for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 11);
      for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 7);
      const ColumnMajorProduct p = column_major(c);
      EXPECT_EQ(p.out, (ColumnMajorProduct::Layout{4, 3, 6}));
      for (std::int64_t i = 0; i < c.m; ++i)
        for (std::int64_t j = 0; j < c.n; ++j) {
          float expected = 0;
          float actual = 0;
          for (std::int64_t l = 0; l < c.k; ++l) {
            expected += a[static_cast<std::size_t>(ta ? l * c.lda + i : i * c.lda + l)] *
                        b[static_cast<std::size_t>(tb ? j * c.ldb + l : l * c.ldb + j)];
            actual +=
                at(b, p.first, p.transpose_first, j, l) * at(a, p.second, p.transpose_second, l, i);
          }
          EXPECT_EQ(actual, expected);
        }
    }
}

TEST(CudaLibraries, AreLookedForInTheNamedFoldersFirst) {
  EXPECT_EQ(library_paths("libx.so.1", "/a:/b/c:"),
            (std::vector<std::string>{"/a/libx.so.1", "/b/c/libx.so.1", "libx.so.1",
                                      "/usr/local/cuda/lib64/libx.so.1"}));
  EXPECT_EQ(library_paths("libx.so.1", nullptr).front(), "libx.so.1");
  Library missing("libtenax_there_is_none.so.7");
  EXPECT_FALSE(missing.found());
  EXPECT_EQ(missing.symbol("f"), nullptr);
  EXPECT_NE(missing.missing().find("libtenax_there_is_none.so.7 was not found"), std::string::npos);
  EXPECT_NE(missing.missing().find("TENAX_CUDA_LIBS"), std::string::npos);
}

TEST(AttentionPlan, CudnnIsAskedOnlyForWhatItCanDo) {
  alignas(16) static float memory[64];
  tenax_cuda_attention c{};
  c.type = TENAX_CUDA_BF16;
  c.head_dim = 64;
  c.ld = 192;
  c.ld_out = 64;
  c.q = c.k = c.v = c.out = memory;
  EXPECT_EQ(attention_refusal(c), "");
  const auto refused = [&](auto&& change) {
    tenax_cuda_attention changed = c;
    change(changed);
    return attention_refusal(changed);
  };
  EXPECT_NE(refused([](auto& x) { x.type = TENAX_CUDA_F32; }), "");
  EXPECT_NE(refused([](auto& x) { x.slopes = memory; }), "");
  EXPECT_NE(refused([](auto& x) { x.head_dim = 60; }), "");
  EXPECT_NE(refused([](auto& x) { x.ld = 190; }), "");
  EXPECT_NE(refused([](auto& x) { x.v = memory + 1; }), "");
  EXPECT_NE(refused([](auto& x) { x.kernels = TENAX_CUDA_ATTENTION_PLAIN; }), "");
  EXPECT_NE(attention_key(c, Direction::kForward), attention_key(c, Direction::kBackward));
}

}  // namespace
}  // namespace tenax::cuda

namespace tenax::compute {
namespace {

TEST(CudaPlugin, AMissingOneIsNamedWithWhatToDo) {
  const auto plugin = CudaPlugin::load({"/nowhere/libtenax_cuda.so"});
  ASSERT_FALSE(plugin);
  EXPECT_EQ(plugin.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(plugin.error().message.find("/nowhere/libtenax_cuda.so"), std::string::npos);
  EXPECT_NE(plugin.error().message.find("TENAX_CUDA_PLUGIN"), std::string::npos);
}

TEST(CudaPlugin, ABrokenOneIsAnError) {
  const std::string path = testing::TempDir() + "/not_a_library.so";
  std::ofstream(path) << "text\n";
  const auto plugin = CudaPlugin::load({path});
  ASSERT_FALSE(plugin);
  EXPECT_EQ(plugin.error().code, ErrorCode::kUnavailable);
}

TEST(CudaPlugin, OneOfAnotherInterfaceIsRefusedWithBothVersions) {
  const auto plugin = CudaPlugin::load({TENAX_OTHER_CUDA_PLUGIN});
  ASSERT_FALSE(plugin);
  EXPECT_EQ(plugin.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(plugin.error().message.find("interface version 999, this program needs "),
            std::string::npos)
      << plugin.error().message;
}

TEST(CudaPlugin, IsLookedForBesideTheProgram) {
  ASSERT_EQ(unsetenv("TENAX_CUDA_PLUGIN"), 0);
  const auto candidates = cuda_plugin_candidates();
  ASSERT_EQ(candidates.size(), 2u);
  EXPECT_TRUE(candidates[0].ends_with("/libtenax_cuda.so"));
  ASSERT_EQ(setenv("TENAX_CUDA_PLUGIN", "/x/y.so", 1), 0);
  EXPECT_EQ(cuda_plugin_candidates(), (std::vector<std::string>{"/x/y.so"}));
  unsetenv("TENAX_CUDA_PLUGIN");
}

}  // namespace
}  // namespace tenax::compute
