#include "actors/gpu_claim.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>
#include <vector>

#include "checkpoint/slot.h"

namespace tenax::actors {
namespace {

class GpuClaims : public ::testing::Test {
 protected:
  void TearDown() override {
    for (const std::string& run : {run_, other_run_})
      static_cast<void>(checkpoint::unlink_segments(run));
  }
  GpuClaim take(int preferred) { return GpuClaim::take(run_, gpus_, preferred).value(); }

  const std::string run_ = fmt::format("claims{}", getpid());
  const std::string other_run_ = fmt::format("others{}", getpid());
  const std::vector<std::string> gpus_ = {"0000:01:00.0", "0000:02:00.0"};
};

TEST_F(GpuClaims, OfTwoAgentsWithAWorkerEachEachHasAGpu) {
  const GpuClaim first = take(0);
  const GpuClaim second = take(0);
  EXPECT_EQ(first.index(), 0);
  EXPECT_EQ(second.index(), 1);
}

TEST_F(GpuClaims, ThatAreMoreThanTheGpusAreSharedEvenly) {
  std::vector<GpuClaim> claims;
  std::vector<int> workers(gpus_.size());
  for (const int preferred : {2, 0, 0, 3, 0, 1}) {
    claims.push_back(take(preferred));
    ++workers[static_cast<std::size_t>(claims.back().index())];
    EXPECT_LE(std::abs(workers[0] - workers[1]), 1);
  }
  EXPECT_EQ(workers, (std::vector<int>{3, 3}));
}

TEST_F(GpuClaims, OfAWorkerThatIsGoneAreItsSuccessors) {
  std::optional<GpuClaim> gone = take(1);
  const GpuClaim stays = take(0);
  EXPECT_EQ(gone->index(), 1);
  gone.reset();
  EXPECT_EQ(take(0).index(), 1) << "the free one, not the preferred one";
}

TEST_F(GpuClaims, SurviveASweepOfWhatNobodyHolds) {
  const GpuClaim held = take(0);
  static_cast<void>(take(1));
  int swept = 0;
  for (const auto& segment : checkpoint::list_segments(run_))
    swept += checkpoint::unlink_unheld(segment.name) ? 1 : 0;
  EXPECT_EQ(swept, 1);
  EXPECT_EQ(take(0).index(), 1);
}

TEST_F(GpuClaims, OfAnotherRunDoNotCount) {
  const GpuClaim mine = take(0);
  EXPECT_EQ(GpuClaim::take(other_run_, gpus_, 0).value().index(), 0);
}

}  // namespace
}  // namespace tenax::actors
