#include "actors/gpu_health.h"

#include <gtest/gtest.h>

namespace tenax::actors {
namespace {

TEST(GpuHealth, IsReadFromThePluginsJson) {
  const auto health = parse_gpu_health(
      R"({"driver": "580", "ecc_uncorrected": 1, "ecc_corrected": 20, "retired_pages_pending": -1,
          "temperature": 60, "power_milliwatts": 1, "throttling": "power cap", "xids": [79, 31]})");
  ASSERT_TRUE(health);
  EXPECT_EQ(*health, (GpuHealth{1, 20, -1, "power cap", {79, 31}}));
  EXPECT_FALSE(parse_gpu_health("libnvidia-ml.so.1 was not found"));
  EXPECT_EQ(parse_gpu_health("{}"), GpuHealth{});
}

TEST(GpuHealth, OnlyWhatHasBecomeWorseIsTold) {
  const GpuHealth before{1, 20, 0, "power cap", {}};
  EXPECT_TRUE(worse(before, before).empty());
  EXPECT_TRUE(worse(GpuHealth{}, GpuHealth{0, 0, 0, "none", {}}).empty());
  EXPECT_TRUE(worse(before, GpuHealth{}).empty()) << "nothing is known any more";
  EXPECT_TRUE(worse(GpuHealth{}, GpuHealth{0, 0, 0, "power cap", {}}).empty());
  EXPECT_EQ(
      worse(before, {2, 20, 3, "power cap, hardware thermal slowdown", {79}}),
      (std::vector<std::string>{"the driver reports Xid 79",
                                "2 uncorrected memory errors since the driver was loaded",
                                "3 pages of memory wait to be retired: the GPU needs a restart",
                                "its clock is held down: hardware thermal slowdown"}));
  const GpuHealth slow{-1, -1, -1, "hardware slowdown", {}};
  EXPECT_TRUE(worse(slow, slow).empty());
}

}  // namespace
}  // namespace tenax::actors
