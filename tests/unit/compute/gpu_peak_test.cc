#include "compute/gpu_peak.h"

#include <gtest/gtest.h>

namespace tenax::compute {
namespace {

// Names as CUDA gives them.
TEST(GpuPeak, IsTheDataSheetsForEachForm) {
  const auto bf16 = [](const char* name) { return gpu_peak_flops(name, Precision::kBf16); };
  const auto fp32 = [](const char* name) { return gpu_peak_flops(name, Precision::kFp32); };
  EXPECT_EQ(bf16("NVIDIA H100 80GB HBM3"), 989e12);
  EXPECT_EQ(fp32("NVIDIA H100 80GB HBM3"), 67e12);
  EXPECT_EQ(bf16("NVIDIA H100 PCIe"), 756e12);
  EXPECT_EQ(bf16("NVIDIA H100 NVL"), 835e12);
  EXPECT_EQ(bf16("NVIDIA H200"), 989e12);
  EXPECT_EQ(fp32("NVIDIA H200"), 67e12);
  EXPECT_EQ(bf16("NVIDIA H200 NVL"), 835e12);
  for (const char* a100 :
       {"NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"}) {
    EXPECT_EQ(bf16(a100), 312e12) << a100;
    EXPECT_EQ(fp32(a100), 19.5e12) << a100;
  }
  EXPECT_EQ(bf16("NVIDIA L40S"), 362e12);
  EXPECT_EQ(fp32("NVIDIA A40"), 37.4e12);
}

TEST(GpuPeak, IsNotGuessed) {
  for (const char* name : {"emulated", "", "NVIDIA GH200 480GB", "NVIDIA RTX A4000", "NVIDIA L40",
                           "NVIDIA H100 80GB HBM3 MIG 1g.10gb"})
    EXPECT_EQ(gpu_peak_flops(name, Precision::kBf16), 0) << name;
}

}  // namespace
}  // namespace tenax::compute
