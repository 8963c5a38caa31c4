#include "actors/gpu_trouble.h"

#include <gtest/gtest.h>

namespace tenax::actors {
namespace {

TEST(GpuTrouble, IsToldByTheCodeAndByWhoSaysIt) {
  const auto of = [](ErrorCode code, const char* message) {
    return trouble_of(make_error(code, message));
  };
  EXPECT_EQ(of(ErrorCode::kDeviceLost, "waiting for the device"), DeviceTrouble::kFault);
  EXPECT_EQ(of(ErrorCode::kDeviceLost, "NCCL: unhandled cuda error"), DeviceTrouble::kFault);
  EXPECT_EQ(of(ErrorCode::kNoSpace, "GPU 0 (H100), a buffer of floats: cudaMalloc"),
            DeviceTrouble::kOutOfMemory);
  EXPECT_EQ(of(ErrorCode::kUnavailable, "NCCL: remote process exited"),
            DeviceTrouble::kCommunication);
  EXPECT_EQ(of(ErrorCode::kInternal, "NCCL: internal error"), DeviceTrouble::kCommunication);
}

TEST(GpuTrouble, IsNotWhatIsAboutSomethingElseOrMeant) {
  const auto of = [](ErrorCode code, const char* message) {
    return trouble_of(make_error(code, message));
  };
  EXPECT_FALSE(of(ErrorCode::kNoSpace, "/dev/shm has 12 bytes left"));
  EXPECT_FALSE(of(ErrorCode::kUnavailable, "recv from rank 3: connection closed by peer"));
  EXPECT_FALSE(of(ErrorCode::kAborted, "NCCL: the generation has ended"));
}

}  // namespace
}  // namespace tenax::actors
