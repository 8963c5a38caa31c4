#include "actors/gpu_group.h"

#include <gtest/gtest.h>

namespace tenax::actors {
namespace {

TEST(GpuGroup, RanksThatShareAGpuAreNamed) {
  const GpuPlace one{"a", "0000:01:00.0"};
  const GpuPlace two{"a", "0000:02:00.0"};
  const GpuPlace elsewhere{"b", "0000:01:00.0"};
  EXPECT_EQ(shared_gpu(std::vector<GpuPlace>{one, two, elsewhere}), "");
  EXPECT_EQ(shared_gpu(std::vector<GpuPlace>{one, two, one}),
            "ranks 0 and 2 share the GPU 0000:01:00.0 of a");
}

}  // namespace
}  // namespace tenax::actors
