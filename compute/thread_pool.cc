#include "compute/thread_pool.h"

#include "common/check.h"

namespace tenax::compute {
namespace {

/// About 20 microseconds of looking before sleeping: longer than the gaps between the pieces of one
/// layer.
constexpr int kSpins = 1000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

/// Returns once `value` differs from `old`.
void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  TENAX_CHECK(num_threads >= 1);
  threads_.reserve(static_cast<std::size_t>(num_threads - 1));
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::work(int thread) {
  std::uint32_t seen = 0;
  while (true) {
    wait_for_change(wake_, seen);
    seen = wake_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    run_tasks(thread);
  }
}

void ThreadPool::run_tasks(int thread) {
  while (true) {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    const std::uint32_t num_tasks = num_tasks_.load(std::memory_order_relaxed);
    const Task function = function_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    const auto task = static_cast<std::uint32_t>(ticket);
    const bool idle = ((ticket >> 32) & 1) != 0;
    if (idle || task >= num_tasks) return;
    if (!ticket_.compare_exchange_strong(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    function(context, task, thread);
    if (num_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_tasks) num_done_.notify_one();
  }
}

void ThreadPool::run_erased(std::uint32_t num_tasks, Task function, void* context) {
  if (threads_.empty() || num_tasks < 2) {
    for (std::uint32_t task = 0; task < num_tasks; ++task) function(context, task, 0);
    return;
  }
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  num_tasks_.store(num_tasks, std::memory_order_relaxed);
  num_done_.store(0, std::memory_order_relaxed);
  const std::uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(job << 32, std::memory_order_release);
  wake_.fetch_add(1, std::memory_order_release);
  wake_.notify_all();

  run_tasks(0);
  for (std::uint32_t done = num_done_.load(std::memory_order_acquire); done != num_tasks;
       done = num_done_.load(std::memory_order_acquire))
    wait_for_change(num_done_, done);
  ticket_.store((job + 1) << 32, std::memory_order_release);
}

}  // namespace tenax::compute
