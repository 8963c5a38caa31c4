#include "scheduler/hang_culprit.h"

#include <gtest/gtest.h>

namespace tenax::scheduler {
namespace {

FlightNote recv(int peer, std::uint64_t sequence = 7, const std::string& state = "waiting") {
  return {sequence, "recv", "all_gather", peer, 4096, state, 1.5};
}
FlightNote sent(int peer) { return {6, "send", "all_gather", peer, 4096, "done", 0.1}; }

TEST(HangCulprit, IsTheRankThatAllOthersWaitFor) {
  const auto culprit = find_culprit({{0, {sent(1), recv(2)}}, {1, {recv(2)}}}, {2});
  ASSERT_TRUE(culprit);
  EXPECT_EQ(culprit->rank, 2);
  EXPECT_EQ(culprit->evidence,
            "rank 2 did not arrive: rank 0 waits for rank 2 in all_gather (transfer 7, 4096 "
            "bytes), rank 1 waits for rank 2 in all_gather (transfer 7, 4096 bytes); rank 2 does "
            "not answer");
}

TEST(HangCulprit, IsFoundThroughThoseWhoOnlyWaitThemselves) {
  // A pipeline: 0 waits for 1, which waits for 2, which computes for ever.
  const auto culprit = find_culprit({{0, {recv(1)}}, {1, {recv(2)}}, {2, {sent(1)}}}, {});
  ASSERT_TRUE(culprit);
  EXPECT_EQ(culprit->rank, 2);
}

TEST(HangCulprit, OfTwoSuspectsIsTheSilentOne) {
  const auto culprit =
      find_culprit({{0, {recv(3)}}, {1, {recv(3)}}, {2, {recv(4)}}, {3, {sent(0)}}}, {4});
  ASSERT_TRUE(culprit);
  EXPECT_EQ(culprit->rank, 4);
}

TEST(HangCulprit, IsTheOldestTransferThatCounts) {
  const auto culprit = find_culprit({{0, {recv(1, 12), recv(2, 11)}}}, {1, 2});
  ASSERT_TRUE(culprit);
  EXPECT_EQ(culprit->rank, 2);
}

TEST(HangCulprit, TransfersThatARankDoesNotWaitForDoNotCount) {
  // Gradients on their way while a backward is computed: rank 1 hangs in it.
  const auto culprit =
      find_culprit({{0, {recv(2, 5, "posted"), recv(1)}}, {1, {recv(0, 5, "posted")}}}, {});
  ASSERT_TRUE(culprit);
  EXPECT_EQ(culprit->rank, 1);
}

TEST(HangCulprit, NobodyIsNamedWithoutAWaitOrInACircle) {
  EXPECT_FALSE(find_culprit({}, {1}));
  EXPECT_FALSE(find_culprit({{0, {sent(1), recv(1, 7, "done")}}}, {1}));
  EXPECT_FALSE(find_culprit({{0, {recv(1)}}, {1, {recv(0)}}}, {}));
}

}  // namespace
}  // namespace tenax::scheduler
