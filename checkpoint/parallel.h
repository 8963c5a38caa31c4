// Runs independent pieces of I/O on a few threads, for as long as one call. Internal to
// checkpoint/.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "common/annotations.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// work(i, worker) for i in [0, count) on up to num_threads threads; worker in [0, num_threads) is
/// used by one thread at a time. After an error no new piece is begun; returns the first error.
inline Status for_each_index_of_worker(std::size_t count, int num_threads,
                                       const std::function<Status(std::size_t, int)>& work) {
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> failed = false;
  Mutex mutex;
  Status first;
  const auto run = [&](int worker) {
    for (std::size_t i = next++; i < count && !failed; i = next++) {
      Status status = work(i, worker);
      if (status) continue;
      const MutexLock lock(mutex);
      if (!failed.exchange(true)) first = std::move(status);
    }
  };
  const int helpers =
      std::min(static_cast<int>(std::min<std::size_t>(count, 1 << 20)) - 1, num_threads - 1);
  std::vector<std::thread> threads;
  for (int i = 0; i < helpers; ++i) threads.emplace_back(run, i + 1);
  run(0);
  for (std::thread& thread : threads) thread.join();
  return first;
}

/// The same where no piece minds which thread does it.
inline Status for_each_index(std::size_t count, int num_threads,
                             const std::function<Status(std::size_t)>& work) {
  return for_each_index_of_worker(count, num_threads,
                                  [&](std::size_t i, int /*worker*/) { return work(i); });
}

}  // namespace tenax::checkpoint
