#include "compute/collectives.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "tests/support/thread_world.h"

namespace tenax::compute {
namespace {

using test::all_ranks;
using test::run_world;

constexpr std::uint64_t kTag = 3;

/// What member i contributes at byte k.
std::byte value(int i, std::size_t k) { return static_cast<std::byte>(37 * i + 11 * k + k / 256); }

class CollectivesInWorldOf : public ::testing::TestWithParam<int> {};

TEST_P(CollectivesInWorldOf, AllGatherPutsBlocksInGroupOrder) {
  const int n = GetParam();
  run_world(n, [n](Communicator& comm) {
    // The group's order is not that of the ranks: member i is rank n - 1 - i.
    std::vector<int> ranks = all_ranks(n);
    std::reverse(ranks.begin(), ranks.end());
    const Group group{ranks, n - 1 - comm.rank()};
    for (const std::size_t bytes : {0ul, 1ul, 24ul, 100'003ul}) {
      std::vector<std::byte> mine(bytes);
      std::vector<std::byte> out(n * bytes);
      for (std::size_t k = 0; k < bytes; ++k) mine[k] = value(group.index, k);
      const auto status = all_gather(comm, group, kTag, mine, out);
      ASSERT_TRUE(status) << status.error().message;
      for (int i = 0; i < n; ++i) {
        for (std::size_t k = 0; k < bytes; ++k) ASSERT_EQ(out[i * bytes + k], value(i, k));
      }
    }
  });
}

TEST_P(CollectivesInWorldOf, AllGatherOfUnevenPartsFillsTheBuffer) {
  const int n = GetParam();
  run_world(n, [n](Communicator& comm) {
    const auto ranks = all_ranks(n);
    const Group group{ranks, comm.rank()};
    std::vector<std::size_t> offsets{0};
    for (int i = 0; i < n; ++i) offsets.push_back(offsets.back() + (i % 2 == 0 ? 1000 * i + 5 : 0));
    std::vector<std::byte> buffer(offsets.back() + 3, std::byte{0xee});
    for (std::size_t k = offsets[group.index]; k < offsets[group.index + 1]; ++k) {
      buffer[k] = value(group.index, k);
    }
    const auto status = all_gather_parts(comm, group, kTag, offsets, buffer);
    ASSERT_TRUE(status) << status.error().message;
    for (int i = 0; i < n; ++i) {
      for (std::size_t k = offsets[i]; k < offsets[i + 1]; ++k) ASSERT_EQ(buffer[k], value(i, k));
    }
    for (std::size_t k = offsets.back(); k < buffer.size(); ++k) {
      EXPECT_EQ(buffer[k], std::byte{0xee});
    }
  });
}

TEST_P(CollectivesInWorldOf, BroadcastReachesEveryMemberFromEveryRoot) {
  const int n = GetParam();
  run_world(n, [n](Communicator& comm) {
    const auto ranks = all_ranks(n);
    const Group group{ranks, comm.rank()};
    for (int root = 0; root < n; ++root) {
      for (const std::size_t bytes : {0ul, 3ul, 65'536ul, 300'001ul}) {
        std::vector<std::byte> data(bytes);
        if (group.index == root) {
          for (std::size_t k = 0; k < bytes; ++k) data[k] = value(root, k);
        }
        const auto status = broadcast(comm, group, kTag, root, data);
        ASSERT_TRUE(status) << status.error().message;
        for (std::size_t k = 0; k < bytes; ++k) ASSERT_EQ(data[k], value(root, k));
      }
    }
  });
}

TEST_P(CollectivesInWorldOf, NobodyLeavesABarrierBeforeAllHaveEntered) {
  const int n = GetParam();
  std::atomic<int> entered{0};
  run_world(n, [&](Communicator& comm) {
    const auto ranks = all_ranks(n);
    for (int round = 1; round <= 50; ++round) {
      if (comm.rank() == round % n) std::this_thread::yield();
      ++entered;
      const auto status = barrier(comm, {ranks, comm.rank()}, kTag);
      ASSERT_TRUE(status) << status.error().message;
      ASSERT_GE(entered.load(), round * n);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, CollectivesInWorldOf, ::testing::Values(1, 2, 3, 4, 5));

TEST(Collectives, TwoGroupsOfOneWorldDoNotDisturbEachOther) {
  run_world(5, [](Communicator& comm) {
    const std::vector<int> even{4, 0, 2};
    const std::vector<int> odd{1, 3};
    const std::vector<int>& ranks = comm.rank() % 2 == 0 ? even : odd;
    const int index = static_cast<int>(std::ranges::find(ranks, comm.rank()) - ranks.begin());
    for (int round = 0; round < 20; ++round) {
      const int mine = 100 * round + comm.rank();
      std::vector<int> out(ranks.size());
      const auto status = all_gather(comm, {ranks, index}, kTag, std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(out)));
      ASSERT_TRUE(status) << status.error().message;
      for (std::size_t i = 0; i < ranks.size(); ++i) EXPECT_EQ(out[i], 100 * round + ranks[i]);
    }
  });
}

TEST(Collectives, EvenPartsCoverEverythingAtAlignedOffsets) {
  for (const std::size_t count : {0ul, 1ul, 15ul, 16ul, 17ul, 1000ul, 1'000'003ul}) {
    for (int n = 1; n <= 7; ++n) {
      const auto offsets = even_parts(count, n, 16);
      ASSERT_EQ(offsets.size(), n + 1u);
      EXPECT_EQ(offsets.front(), 0u);
      EXPECT_EQ(offsets.back(), count);
      for (int i = 0; i < n; ++i) {
        EXPECT_LE(offsets[i], offsets[i + 1]);
        EXPECT_LE(offsets[i + 1] - offsets[i], count / n + 32);
        EXPECT_TRUE(offsets[i] % 16 == 0 || offsets[i] == count);
      }
    }
  }
}

}  // namespace
}  // namespace tenax::compute
