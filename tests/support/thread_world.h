// A world of ranks that are threads of the test's process, each with a Gloo communicator of its
// own.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "compute/cpu/gloo_communicator.h"
#include "tests/support/in_memory_rendezvous.h"

namespace tenax::test {

/// The device that all tests of a process share; ignores SIGPIPE as main() of a worker must.
inline std::shared_ptr<compute::GlooDevice> loopback_device() {
  static const auto device = [] {
    signal(SIGPIPE, SIG_IGN);
    return compute::GlooDevice::open("127.0.0.1").value();
  }();
  return device;
}

inline compute::GlooOptions gloo_options(int rank, int world_size, std::string generation) {
  compute::GlooOptions options;
  options.rank = rank;
  options.world_size = world_size;
  options.form_timeout = std::chrono::seconds(60);
  options.operation_timeout = std::chrono::seconds(60);
  options.key_prefix = std::move(generation);
  return options;
}

/// Forms a world and runs `rank_main` as each rank in a thread of its own.
inline void run_world(int world_size,
                      const std::function<void(compute::Communicator&)>& rank_main) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  const auto device = loopback_device();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      auto comm = compute::GlooCommunicator::create(device, gloo_options(rank, world_size, "world"),
                                                    rendezvous);
      ASSERT_TRUE(comm) << comm.error().message;
      rank_main(**comm);
    });
  }
  for (auto& thread : threads) thread.join();
}

/// 0, 1, ..., world_size - 1.
inline std::vector<int> all_ranks(int world_size) {
  std::vector<int> ranks(world_size);
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

}  // namespace tenax::test
