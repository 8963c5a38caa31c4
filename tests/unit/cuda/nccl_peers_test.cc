// The plugin's NCCL part over a stub library whose ranks are threads, and the sums that are made
// with it from GPU to GPU, emulated ones.
#include "compute/nccl_peers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <latch>
#include <numeric>
#include <thread>

#include "common/counter_rng.h"
#include "compute/aligned_buffer.h"
#include "compute/device_tree_reduce.h"
#include "tests/support/in_memory_rendezvous.h"
#include "tests/unit/cuda/emulated_device.h"

namespace tenax::compute {
namespace {

class NcclPeersTest : public testing::Test {
 protected:
  NcclPeersTest() { setenv("TENAX_CUDA_LIBS", TENAX_STUB_LIBRARIES, 1); }
  ~NcclPeersTest() override {
    unsetenv("TENAX_CUDA_LIBS");
    unsetenv("TENAX_STUB_NCCL_ERROR");
  }

  static NcclOptions options(int rank, int world_size,
                             Duration form_timeout = std::chrono::seconds(60)) {
    return {rank, world_size, form_timeout, "generation1"};
  }

  struct Rank {
    int index = 0;
    std::shared_ptr<CudaDevice> device;
    DevicePeers* peers = nullptr;
  };
  /// Each rank in a thread, with a context of its own.
  void run(int world_size, const std::function<void(Rank&)>& body,
           const std::stop_token& stop = {}) {
    test::InMemoryRendezvous rendezvous;
    std::vector<std::thread> threads;
    for (int r = 0; r < world_size; ++r) {
      threads.emplace_back([&, r] {
        Rank rank{r, emulated_device(), nullptr};
        auto peers = NcclPeers::create(rank.device, options(r, world_size), rendezvous, stop);
        ASSERT_TRUE(peers) << peers.error().message;
        rank.peers = peers->get();
        body(rank);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  static DeviceBuffer filled(CudaDevice& device, std::size_t n, float value) {
    DeviceBuffer buffer = device.allocate(n).value();
    device.write(std::vector<float>(n, value), buffer.span());
    return buffer;
  }
  static std::vector<float> read(CudaDevice& device, std::span<const float> buffer) {
    std::vector<float> host(buffer.size());
    device.read(buffer, host);
    return host;
  }
};

TEST_F(NcclPeersTest, TransfersOfTwoRanksMatchInTheirOrder) {
  run(3, [](Rank& rank) {
    std::vector<DeviceBuffer> sent;
    std::vector<DeviceBuffer> arrived;
    std::vector<DeviceTransfer> transfers;
    for (int peer = 0; peer < 3; ++peer) {
      if (peer == rank.index) continue;
      for (int i = 0; i < 2; ++i) {
        sent.push_back(
            filled(*rank.device, 8, static_cast<float>(100 * rank.index + 10 * peer + i)));
        transfers.push_back({TransferKind::kSend, peer, sent.back().span()});
        arrived.push_back(filled(*rank.device, 8, -1));
        transfers.push_back({TransferKind::kRecv, peer, arrived.back().span()});
      }
    }
    ASSERT_TRUE(rank.peers->exchange(transfers));
    ASSERT_TRUE(rank.peers->status());
    std::size_t at = 0;
    for (int peer = 0; peer < 3; ++peer) {
      if (peer == rank.index) continue;
      for (int i = 0; i < 2; ++i) {
        const auto expected = static_cast<float>(100 * peer + 10 * rank.index + i);
        EXPECT_EQ(read(*rank.device, arrived[at++].span()), std::vector<float>(8, expected));
      }
    }
  });
}

TEST_F(NcclPeersTest, AnExchangeComesAfterTheDevicesWorkAndBeforeWhatFollows) {
  run(2, [](Rank& rank) {
    const DeviceBuffer a = filled(*rank.device, 64, 1.0f + static_cast<float>(rank.index));
    const DeviceBuffer b = rank.device->allocate(64).value();
    const DeviceBuffer sum = rank.device->allocate(64).value();
    rank.device->add(a.span(), a.span(), a.span());  // queued, not waited for
    const DeviceTransfer transfers[] = {{TransferKind::kSend, 1 - rank.index, a.span()},
                                        {TransferKind::kRecv, 1 - rank.index, b.span()}};
    ASSERT_TRUE(rank.peers->exchange(transfers));
    rank.device->add(a.span(), b.span(), sum.span());
    EXPECT_EQ(read(*rank.device, sum.span()), std::vector<float>(64, 6.0f));
  });
}

TEST_F(NcclPeersTest, FormingWithoutTheSecondRankEndsInTime) {
  test::InMemoryRendezvous rendezvous;
  const auto peers = NcclPeers::create(emulated_device(),
                                       options(0, 2, std::chrono::milliseconds(30)), rendezvous);
  ASSERT_FALSE(peers);
  EXPECT_EQ(peers.error().code, ErrorCode::kTimeout);
  EXPECT_NE(peers.error().message.find("not all of 2 ranks came"), std::string::npos)
      << peers.error().message;
}

TEST_F(NcclPeersTest, FormingWithoutTheSecondRankIsAborted) {
  test::InMemoryRendezvous rendezvous;
  std::stop_source stop;
  std::thread aborter([&] {
    // Once the first rank has published its id it is forming.
    static_cast<void>(rendezvous.wait("generation1/nccl"));
    stop.request_stop();
  });
  const auto peers =
      NcclPeers::create(emulated_device(), options(0, 2), rendezvous, stop.get_token());
  aborter.join();
  ASSERT_FALSE(peers);
  EXPECT_EQ(peers.error().code, ErrorCode::kAborted);
}

TEST_F(NcclPeersTest, AnAbortFromAnotherThreadEndsAnExchangeForGood) {
  std::stop_source stop;
  run(
      2,
      [&](Rank& rank) {
        if (rank.index == 1) return;  // never sends
        const DeviceBuffer buffer = filled(*rank.device, 8, 0);
        const DeviceTransfer transfer{TransferKind::kRecv, 1, buffer.span()};
        std::thread aborter([&] { stop.request_stop(); });
        const Status ended = rank.peers->exchange({&transfer, 1});
        aborter.join();
        ASSERT_FALSE(ended);
        EXPECT_EQ(ended.error().code, ErrorCode::kAborted);
        EXPECT_NE(ended.error().message.find("the generation has ended"), std::string::npos);
        EXPECT_FALSE(rank.peers->exchange({&transfer, 1}));
        EXPECT_EQ(rank.peers->status().error().code, ErrorCode::kAborted);
        rank.peers->abort("again");
        EXPECT_TRUE(rank.device->status()) << "the GPU goes on";
      },
      stop.get_token());
}

TEST_F(NcclPeersTest, AnErrorOfAPeerIsFoundByPolling) {
  const std::string file = testing::TempDir() + "/nccl_error";
  std::filesystem::remove(file);
  setenv("TENAX_STUB_NCCL_ERROR", file.c_str(), 1);
  std::latch formed(2);
  run(2, [&](Rank& rank) {
    formed.arrive_and_wait();
    if (rank.index == 1) return;
    const DeviceBuffer buffer = filled(*rank.device, 8, 0);
    const DeviceTransfer transfer{TransferKind::kRecv, 1, buffer.span()};
    std::thread peer([&] { std::ofstream(file) << "now\n"; });
    const Status ended = rank.peers->exchange({&transfer, 1});
    peer.join();
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, ErrorCode::kUnavailable);
    EXPECT_NE(ended.error().message.find("remote process exited"), std::string::npos)
        << ended.error().message;
  });
  std::filesystem::remove(file);
}

TEST_F(NcclPeersTest, AnIdThatIsNoneIsRefused) {
  test::InMemoryRendezvous rendezvous;
  ASSERT_TRUE(rendezvous.publish("generation1/nccl", "zz"));
  const auto peers = NcclPeers::create(emulated_device(), options(1, 2), rendezvous);
  ASSERT_FALSE(peers);
  EXPECT_EQ(peers.error().code, ErrorCode::kDataLoss);
}

TEST_F(NcclPeersTest, ASumOverReplicasHasTheBitsOfTheTree) {
  constexpr std::size_t kElements = 3 * 4096 + 32;
  const std::vector<std::vector<MicrobatchRange>> divisions = {
      {{0, 4}, {4, 8}}, {{0, 3}, {3, 7}}, {{0, 2}, {2, 2}, {2, 5}}, {{5, 6}, {0, 5}}};
  for (const auto& ranges : divisions) {
    int num_microbatches = 0;
    for (const MicrobatchRange& range : ranges)
      num_microbatches = std::max(num_microbatches, range.end);
    std::vector<std::vector<float>> gradients;
    std::vector<Subtree> leaves;
    std::vector<const float*> data;
    for (int mb = 0; mb < num_microbatches; ++mb) {
      const CounterRng rng(static_cast<std::uint64_t>(mb), 1);
      std::vector<float>& g = gradients.emplace_back(kElements);
      for (std::size_t i = 0; i < kElements; ++i) g[i] = rng.normal(i);
      leaves.push_back({mb, 0});
    }
    for (const auto& g : gradients) data.push_back(g.data());
    std::vector<float> expected(kElements);
    sum_subtrees(leaves, data, expected.data(), kElements);
    const int n = static_cast<int>(ranges.size());
    run(n, [&](Rank& rank) {
      const MicrobatchRange range = ranges[static_cast<std::size_t>(rank.index)];
      auto mine = TreeAccumulator::create(rank.device, kElements, range).value();
      for (int mb = range.begin; mb < range.end; ++mb)
        mine->add(gradients[static_cast<std::size_t>(mb)]);
      TreeReduceOptions reduce;
      reduce.ranges = ranges;
      reduce.num_microbatches = num_microbatches;
      reduce.index = rank.index;
      std::vector<int> ranks(ranges.size());
      std::iota(ranks.begin(), ranks.end(), 0);
      const DeviceBuffer out = rank.device->allocate(kElements).value();
      // Three on their way at once, of elements that each member has a piece of.
      constexpr std::size_t kBuckets = 3;
      std::vector<TreeReduction> reductions(kBuckets);
      for (std::size_t b = 0; b < kBuckets; ++b) {
        const std::size_t begin = kElements * b / kBuckets;
        const std::size_t size = kElements * (b + 1) / kBuckets - begin;
        const auto parts = even_parts(size, n, kAlignFloats);
        reductions[b] = {mine.get(), out.span(), {}, true, b, static_cast<std::int32_t>(b)};
        for (std::size_t m = 0; m + 1 < parts.size(); ++m)
          reductions[b].pieces.push_back({begin + parts[m], begin + parts[m + 1]});
      }
      // Room for all, then for one at a time; what was left of a step before changes nothing.
      for (const bool is_roomy : {true, false}) {
        DeviceTreeReducer reducer(rank.device, reduce);
        reducer.reserve(is_roomy ? 100 * kElements * sizeof(float) : 0);
        for (int repeat = 0; repeat < 2; ++repeat) {
          rank.device->zero(out.span());
          for (const TreeReduction& r : reductions)
            ASSERT_TRUE(reducer.start(*rank.peers, {ranks, rank.index}, r));
          const Status reduced = reducer.finish(*rank.peers, {ranks, rank.index});
          ASSERT_TRUE(reduced) << reduced.error().message;
          EXPECT_EQ(read(*rank.device, out.span()), expected);
        }
      }
    });
  }
}

TEST_F(NcclPeersTest, AnErrorEndsWhatTheDeviceWaitsFor) {
  const std::string error = testing::TempDir() + "/nccl_error_meanwhile";
  const std::string busy = testing::TempDir() + "/nccl_busy";
  std::filesystem::remove(error);
  setenv("TENAX_STUB_NCCL_ERROR", error.c_str(), 1);
  setenv("TENAX_EMULATED_BUSY", busy.c_str(), 1);
  std::latch formed(2);
  std::latch seen(1);
  run(2, [&](Rank& rank) {
    formed.arrive_and_wait();
    if (rank.index == 1) return seen.wait();
    // A kernel of NCCL's that waits for its peer, which is known to be lost only later.
    std::ofstream(busy) << "kernel\n";
    std::thread peer([&] { std::ofstream(error) << "now\n"; });
    EXPECT_TRUE(rank.device->status()) << "the GPU goes on";
    peer.join();
    EXPECT_FALSE(std::filesystem::exists(busy)) << "it was aborted";
    std::filesystem::remove(error);
    const Status ended = rank.peers->status();
    seen.count_down();
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, ErrorCode::kUnavailable);
    EXPECT_NE(ended.error().message.find("remote process exited"), std::string::npos)
        << ended.error().message;
  });
  unsetenv("TENAX_EMULATED_BUSY");
}

TEST_F(NcclPeersTest, AnOrderlyEndIsMadeByAllRanks) {
  run(3, [](Rank& rank) {
    const DeviceBuffer buffer = filled(*rank.device, 8, 1);
    const DeviceTransfer transfers[] = {
        {TransferKind::kSend, (rank.index + 1) % 3, buffer.span().first(4)},
        {TransferKind::kRecv, (rank.index + 2) % 3, buffer.span().subspan(4)}};
    ASSERT_TRUE(rank.peers->exchange(transfers));
    // The stub ends the program where one is destroyed before all ranks were there.
    finish_in_order(rank.peers, {}, std::chrono::seconds(60));
    EXPECT_TRUE(rank.peers->finish());
  });
}

TEST_F(NcclPeersTest, WhoeverDoesNotComeToTheEndIsNotWaitedForLong) {
  run(2, [](Rank& rank) {
    if (rank.index == 1) return;  // aborts
    finish_in_order(rank.peers, {}, std::chrono::milliseconds(20));
    EXPECT_FALSE(rank.peers->finish());
    rank.peers->abort("enough");
    EXPECT_TRUE(rank.peers->finish()) << "nothing is left to be ended";
  });
}

TEST_F(NcclPeersTest, NeighboursEndTogetherWhateverTheirOrder) {
  test::InMemoryRendezvous rendezvous;
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      auto neighbours = NcclPeers::connect_neighbours(emulated_device(), options(r, 3),
                                                      {{0, 1, 2}, r, true}, rendezvous);
      ASSERT_TRUE(neighbours) << neighbours.error().message;
      if (r == 1) std::ranges::reverse(neighbours->owners);
      finish_in_order(nullptr, *neighbours, std::chrono::seconds(60));
      for (const auto& owner : neighbours->owners) EXPECT_TRUE(owner->finish());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tenax::compute
