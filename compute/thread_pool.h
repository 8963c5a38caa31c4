// A few threads that share the tiles of one piece of work. Tasks are claimed one by one, so a
// thread whose core is taken away holds up only the task it has; the work is done when all tasks
// are, whether or not every thread woke up. Idle threads spin some microseconds, then sleep in the
// kernel: worker processes that share cores must not burn them.
//
// run() may be called from one thread at a time. Which thread runs a task must not matter for the
// result.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace tenax::compute {

class ThreadPool {
 public:
  /// The calling thread is one of the `num_threads` (at least 1); 1 starts none and runs everything
  /// inline.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  /// Calls f(task, thread) once for every task of [0, num_tasks), 0 <= thread < num_threads(), and
  /// returns when all have returned. f must not throw and must not call run().
  template <class F>
  void run(std::uint32_t num_tasks, F&& f) {
    using Function = std::remove_reference_t<F>;
    run_erased(
        num_tasks,
        [](void* context, std::uint32_t task, int thread) {
          (*static_cast<Function*>(context))(task, thread);
        },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Task = void (*)(void* context, std::uint32_t task, int thread);

  void run_erased(std::uint32_t num_tasks, Task function, void* context);
  void work(int thread);
  /// Runs tasks of the current job until none is left to claim.
  void run_tasks(int thread);

  // The job. Written only while ticket_ says idle.
  std::atomic<Task> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<std::uint32_t> num_tasks_{0};
  /// Job number above, next task below. An odd job number means idle. Claiming is a
  /// compare-and-swap of both, so a thread that read the fields of another job cannot claim a task
  /// with them.
  std::atomic<std::uint64_t> ticket_{std::uint64_t{1} << 32};
  std::atomic<std::uint32_t> num_done_{0};
  std::atomic<std::uint32_t> wake_{0};  ///< raised with each job; sleepers wait on it
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace tenax::compute
