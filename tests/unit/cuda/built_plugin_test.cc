// The plugin that is shipped: it opens without a driver, says what is missing, and its attention
// graphs are planned by cuDNN for a GPU that is only described.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "compute/cuda_plugin.h"

namespace tenax::compute {
namespace {

std::shared_ptr<const CudaPlugin> built_plugin() {
  auto plugin = CudaPlugin::load({TENAX_BUILT_CUDA_PLUGIN});
  EXPECT_TRUE(plugin) << plugin.error().message;
  return plugin ? *plugin : nullptr;
}

TEST(BuiltCudaPlugin, OpensWithAndWithoutADriver) {
  const auto plugin = built_plugin();
  ASSERT_NE(plugin, nullptr);
  const auto count = cuda_device_count(*plugin);
  if (count) {
    EXPECT_GE(*count, 1);
    return;
  }
  EXPECT_EQ(count.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(count.error().message.find("cudaGetDeviceCount: "), std::string::npos)
      << count.error().message;
  tenax_cuda_options options{};
  tenax_cuda_context* context = nullptr;
  std::array<char, 512> message{};
  EXPECT_EQ(plugin->create(&options, &context, message.data(), message.size()),
            TENAX_CUDA_UNAVAILABLE);
  EXPECT_EQ(context, nullptr);
  EXPECT_NE(message[0], '\0');
}

TEST(BuiltCudaPlugin, DescribesTheLibrariesItWasBuiltForAndFinds) {
  const auto plugin = built_plugin();
  ASSERT_NE(plugin, nullptr);
  std::array<char, 8192> text{};
  ASSERT_EQ(plugin->describe(text.data(), text.size()), TENAX_CUDA_OK);
  const auto json = nlohmann::json::parse(text.data());
  for (const char* library : {"cublasLt", "cudnn", "nccl"}) {
    EXPECT_GT(json.at(library).at("compiled").get<int>(), 0) << library;
    EXPECT_FALSE(json.at(library).at("where").get<std::string>().empty()) << library;
  }
  EXPECT_GE(json.at("runtime").get<int>(), 13000);
}

TEST(BuiltCudaPlugin, LinksNoLibraryThatARunWithoutGpusLacks) {
  // Whatever it needs of CUDA it opens itself, so that the dynamic linker never asks for it.
  const std::string command = std::string("readelf -d ") + TENAX_BUILT_CUDA_PLUGIN + " 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string text;
  std::array<char, 4096> part{};
  while (const std::size_t n = fread(part.data(), 1, part.size(), pipe))
    text.append(part.data(), n);
  ASSERT_EQ(pclose(pipe), 0) << text;
  ASSERT_NE(text.find("NEEDED"), std::string::npos);
  for (const char* library : {"libcuda", "cublas", "cudnn", "nccl", "nvrtc", "libcudart"})
    EXPECT_EQ(text.find(std::string("[lib") + library), std::string::npos) << library;
  EXPECT_EQ(text.find("libcuda.so"), std::string::npos);
  EXPECT_EQ(text.find("libcublasLt"), std::string::npos);
  EXPECT_EQ(text.find("libcudnn"), std::string::npos);
  EXPECT_EQ(text.find("libnccl"), std::string::npos);
}

// An H200 in cuDNN's words.
constexpr char kDescribedGpu[] =
    R"({"deviceName":"NVIDIA H200","cudaDeviceId":0,"deviceVer":900,"multiProcessorCount":132,"driverVer":13000,)"
    R"("warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,)"
    R"("reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"regsPerBlock":65536,"pciDeviceId":0,)"
    R"("maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"isTccDriver":0,"supportCoopLaunch":1,)"
    R"("smClockRateKHz":1980000,"memClockRateKHz":3201000,"l2CacheSize":62914560,)"
    R"("maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"totalGlobalMem":150754820096})";

struct Shape {
  const char* name;
  std::int64_t batch, length, heads, kv_heads, head_dim;
};

class CudnnAttentionGraphs : public testing::TestWithParam<Shape> {};

TEST_P(CudnnAttentionGraphs, ArePlannedForADescribedH200) {
  const auto plugin = built_plugin();
  ASSERT_NE(plugin, nullptr);
  const Shape& s = GetParam();
  alignas(16) static float memory[16];
  tenax_cuda_attention call{};
  call.type = TENAX_CUDA_BF16;
  call.batch = s.batch;
  call.length = s.length;
  call.heads = s.heads;
  call.kv_heads = s.kv_heads;
  call.head_dim = s.head_dim;
  call.ld = (s.heads + 2 * s.kv_heads) * s.head_dim;
  call.ld_out = s.heads * s.head_dim;
  call.q = call.k = call.v = call.out = memory;
  for (const int backward : {0, 1}) {
    std::array<char, 4096> text{};
    const tenax_cuda_status status =
        plugin->plan_attention(&call, backward, kDescribedGpu, text.data(), text.size());
    // Where the library is not there.
    if (std::string(text.data()).find("was not found") != std::string::npos)
      GTEST_SKIP() << text.data();
    EXPECT_EQ(status, TENAX_CUDA_OK) << text.data();
    EXPECT_NE(std::string(text.data()).find(" engine "), std::string::npos) << text.data();
    RecordProperty(backward == 0 ? "forward" : "backward", text.data());
    printf("%s\n", text.data());
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudnnAttentionGraphs,
                         testing::Values(Shape{"Gpt2_124M", 64, 1024, 12, 12, 64},
                                         Shape{"Gpt2_774M", 16, 1024, 20, 20, 64},
                                         Shape{"Gpt2_1558M", 16, 1024, 25, 25, 64},
                                         Shape{"Llama_1B", 8, 2048, 32, 8, 64},
                                         Shape{"Llama_7B", 2, 2048, 32, 32, 128},
                                         Shape{"Grouped_128", 2, 4096, 32, 8, 128}),
                         [](const auto& shape) { return std::string(shape.param.name); });

}  // namespace
}  // namespace tenax::compute
