// Times the CPU collectives: forming and closing a world, aborting, barrier, all-gather, broadcast
// and the reproducible tree reduction. Ranks are threads with a Gloo device each, so the figures
// include the load of all ranks on one machine. Prints medians over the rounds.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "compute/collectives.h"
#include "compute/cpu/gloo_communicator.h"
#include "compute/tree_reduce.h"
#include "tests/support/whole_reduction.h"

namespace {

using namespace tenax;
using namespace tenax::compute;
using SteadyClock = std::chrono::steady_clock;

constexpr int kRounds = 11;
constexpr std::uint64_t kTag = 1;

class LocalRendezvous final : public Rendezvous {
 public:
  Status publish(const std::string& key, std::string value) override {
    const std::lock_guard lock(mutex_);
    values_[key] = std::move(value);
    changed_.notify_all();
    return {};
  }
  Result<std::string> wait(const std::string& key) override {
    return wait(key, std::chrono::minutes(1));
  }
  Result<std::string> wait(const std::string& key, Duration timeout) override {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, timeout, [&] { return values_.contains(key); })) {
      return make_error(ErrorCode::kTimeout, key);
    }
    return values_[key];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

double milliseconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double, std::milli>(SteadyClock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + values.size() / 2);
  return values[values.size() / 2];
}

void require(const Status& status) {
  if (status) return;
  std::fprintf(stderr, "%s\n", status.error().message.c_str());
  std::exit(1);
}

/// Runs `operation` on all ranks kRounds times, between barriers; rank 0's median in milliseconds.
double time_all(Communicator& comm, const Group& group, const std::function<Status()>& operation) {
  std::vector<double> times;
  for (int round = 0; round < kRounds; ++round) {
    require(barrier(comm, group, kTag));
    const auto start = SteadyClock::now();
    require(operation());
    require(barrier(comm, group, kTag));
    times.push_back(milliseconds_since(start));
  }
  return median(times);
}

/// The yardstick for what the fixed tree costs: each member has one vector, the sums are made in
/// whatever order the members come in the group. Same bytes on the wire as a ring.
Status plain_all_reduce(Communicator& comm, const Group& group, std::span<const std::size_t> parts,
                        std::span<const float> mine, std::span<float> out,
                        std::vector<float>& workspace) {
  const std::size_t begin = parts[group.index];
  const std::size_t size = parts[group.index + 1] - begin;
  workspace.resize(size * static_cast<std::size_t>(group.size()));
  std::vector<std::unique_ptr<Transfer>> transfers;
  for (int i = 0; i < group.size(); ++i) {
    if (i == group.index) continue;
    const auto theirs = mine.subspan(parts[i], parts[i + 1] - parts[i]);
    transfers.push_back(comm.send(group.ranks[i], kTag, std::as_bytes(theirs)));
    transfers.push_back(comm.recv(group.ranks[i], kTag,
                                  std::as_writable_bytes(std::span(workspace).subspan(
                                      size * static_cast<std::size_t>(i), size))));
  }
  for (const auto& transfer : transfers) {
    if (Status status = transfer->wait(); !status) return status;
  }
  const auto sum = out.subspan(begin, size);
  std::ranges::copy(mine.subspan(begin, size), sum.begin());
  for (int i = 0; i < group.size(); ++i) {
    if (i == group.index) continue;
    const float* theirs = workspace.data() + size * static_cast<std::size_t>(i);
    for (std::size_t j = 0; j < size; ++j) sum[j] += theirs[j];
  }
  std::vector<std::size_t> bytes(parts.begin(), parts.end());
  for (std::size_t& part : bytes) part *= sizeof(float);
  return all_gather_parts(comm, group, kTag, bytes, std::as_writable_bytes(out));
}

void measure(Communicator& comm) {
  const int n = comm.world_size();
  std::vector<int> ranks(n);
  std::iota(ranks.begin(), ranks.end(), 0);
  const Group group{ranks, comm.rank()};
  const auto report = [&](const std::string& name, double bytes, double time) {
    if (comm.rank() != 0) return;
    std::printf("%d ranks  %-44s %9.3f ms", n, name.c_str(), time);
    if (bytes > 0) std::printf("  %6.2f GB/s", bytes / time / 1e6);
    std::printf("\n");
  };

  report("barrier (two of them)", 0, time_all(comm, group, [] { return Status(); }));
  constexpr std::size_t kBytes = 64 << 20;
  std::vector<float> out(kBytes / sizeof(float));
  const auto bytes = std::as_writable_bytes(std::span(out));
  const auto parts = even_parts(out.size(), n, 16);
  auto byte_parts = parts;
  for (std::size_t& part : byte_parts) part *= sizeof(float);
  report("all_gather, 64 MiB in all", kBytes, time_all(comm, group, [&] {
           return all_gather_parts(comm, group, kTag, byte_parts, bytes);
         }));
  report("broadcast, 64 MiB", kBytes,
         time_all(comm, group, [&] { return broadcast(comm, group, kTag, 0, bytes); }));
  {
    const std::vector<float> mine(out.size(), 0.5f);
    std::vector<float> workspace;
    report("plain all_reduce, no fixed order", kBytes, time_all(comm, group, [&] {
             return plain_all_reduce(comm, group, parts, mine, out, workspace);
           }));
  }
  for (const int num_microbatches : {4, 6, 8}) {
    TreeReduceOptions options;
    options.num_microbatches = num_microbatches;
    options.index = group.index;
    for (int i = 0; i < n; ++i) {
      options.ranges.push_back({num_microbatches * i / n, num_microbatches * (i + 1) / n});
    }
    TreeAccumulator mine(out.size(), options.ranges[group.index]);
    auto reducer = TreeReducer::create(std::move(options)).value();
    while (!mine.complete()) {
      std::ranges::fill(mine.next(), 0.5f);
      mine.commit();
    }
    const std::string suffix = ", M = " + std::to_string(num_microbatches) + ", rank 0 has " +
                               std::to_string(mine.subtrees().size()) + " subtrees";
    report("tree reduce_scatter" + suffix, kBytes, time_all(comm, group, [&] {
             return test::reduce_whole(reducer, comm, group, kTag, mine, parts, out, false);
           }));
    report("tree all_reduce" + suffix, kBytes, time_all(comm, group, [&] {
             return test::reduce_whole(reducer, comm, group, kTag, mine, parts, out, true);
           }));
  }
}

void run(int world_size) {
  std::vector<std::shared_ptr<GlooDevice>> devices;
  for (int i = 0; i < world_size; ++i) devices.push_back(GlooDevice::open("127.0.0.1").value());
  const auto rendezvous = std::make_shared<LocalRendezvous>();
  std::vector<double> form_times;
  std::vector<double> abort_times;
  std::vector<double> close_times;
  for (int generation = 0; generation <= kRounds; ++generation) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < world_size; ++rank) {
      threads.emplace_back([&, rank] {
        const auto start = SteadyClock::now();
        auto comm = GlooCommunicator::create(devices[rank],
                                             {.rank = rank,
                                              .world_size = world_size,
                                              .form_timeout = std::chrono::minutes(1),
                                              .operation_timeout = std::chrono::minutes(1),
                                              .key_prefix = std::to_string(generation)},
                                             rendezvous)
                        .value();
        if (rank == 0) form_times.push_back(milliseconds_since(start));
        if (generation == kRounds) return measure(*comm);
        std::byte byte{};
        auto transfer = comm->recv((rank + 1) % world_size, kTag, {&byte, 1});
        SteadyClock::time_point aborted;
        std::jthread aborter([&] {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          aborted = SteadyClock::now();
          comm->abort("measured");
        });
        (void)transfer->wait();
        const double abort_time = milliseconds_since(aborted);
        aborter.join();
        const auto closing = SteadyClock::now();
        transfer.reset();
        comm.reset();
        if (rank != 0) return;
        abort_times.push_back(abort_time);
        close_times.push_back(milliseconds_since(closing));
      });
    }
    for (auto& thread : threads) thread.join();
  }
  std::printf("%d ranks  form %.3f ms, abort to end of wait %.3f ms, close %.3f ms\n", world_size,
              median(form_times), median(abort_times), median(close_times));
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  std::vector<int> world_sizes{2, 3, 4};
  if (argc > 1) world_sizes.clear();
  for (int i = 1; i < argc; ++i) world_sizes.push_back(std::max(2, std::atoi(argv[i])));
  for (const int world_size : world_sizes) run(world_size);
}
