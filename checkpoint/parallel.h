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

/// work(i) for i in [0, count) on up to num_threads threads. After an error no new piece is begun;
/// returns the first error.
inline Status for_each_index(std::size_t count, int num_threads,
                             const std::function<Status(std::size_t)>& work) {
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> failed = false;
  Mutex mutex;
  Status first;
  const auto run = [&] {
    for (std::size_t i = next++; i < count && !failed; i = next++) {
      Status status = work(i);
      if (status) continue;
      const MutexLock lock(mutex);
      if (!failed.exchange(true)) first = std::move(status);
    }
  };
  const std::size_t helpers = std::min<std::size_t>(
      count == 0 ? 0 : count - 1, static_cast<std::size_t>(std::max(0, num_threads - 1)));
  std::vector<std::thread> threads;
  threads.reserve(helpers);
  for (std::size_t i = 0; i < helpers; ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  return first;
}

}  // namespace tenax::checkpoint
