#include "compute/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <numeric>

#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceForAnyNumberOfThreads) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (std::uint32_t num_tasks : {0u, 1u, 2u, 7u, 1000u}) {
      std::vector<int> runs(num_tasks);  // unguarded: two threads in one task would be a race
      pool.run(num_tasks, [&](std::uint32_t task, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++runs[task];
      });
      EXPECT_EQ(runs, std::vector<int>(num_tasks, 1));
    }
  }
}

TEST(ThreadPool, ManyShortJobsInARowNeverMixTheirTasks) {
  ThreadPool pool(4);
  std::vector<std::uint64_t> sums(16);
  for (std::uint32_t job = 0; job < 20000; ++job) {
    const std::uint32_t num_tasks = 2 + job % 15;
    pool.run(num_tasks, [&, job](std::uint32_t task, int) { sums[task] += job; });
  }
  for (std::uint32_t task = 0; task < 16; ++task) {
    std::uint64_t expected = 0;
    for (std::uint32_t job = 0; job < 20000; ++job)
      if (task < 2 + job % 15) expected += job;
    EXPECT_EQ(sums[task], expected) << "task " << task;
  }
}

TEST(ThreadPool, WorksAfterItsThreadsWentToSleep) {
  ThreadPool pool(2);
  std::atomic<int> runs{0};
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    pool.run(8, [&](std::uint32_t, int) { ++runs; });
  }
  EXPECT_EQ(runs, 40);
}

/// Large enough that every product and every row operation is shared out.
ModelOptions shared_out(ModelOptions options) {
  options.vocabulary_size = 300;
  options.padded_vocabulary_size = 320;
  options.max_sequence_length = 130;
  options.width = 192;
  options.num_heads = 4;
  options.num_kv_heads = 2;
  options.head_dim = 48;
  options.ffn_width = 500;
  return options;
}

TEST(StageThreads, BitsDoNotDependOnTheirNumber) {
  for (const ModelOptions& options : {shared_out(tiny_gpt2()), shared_out(tiny_llama())}) {
    const TestBatch batch(options, {2, 130});
    const auto alone = make_stage(options, whole_model(options), batch.shape);
    const Trained expected = train_once(*alone, batch);
    for (const int threads : {2, 3, 4}) {
      const auto shared = make_stage(options, whole_model(options), batch.shape, 1,
                                     {cpu::best_isa(), Recompute::kNone, threads});
      const Trained trained = train_once(*shared, batch);
      EXPECT_EQ(trained.loss.sum, expected.loss.sum);
      EXPECT_EQ(std::memcmp(trained.gradient.data(), expected.gradient.data(),
                            expected.gradient.size() * sizeof(float)),
                0)
          << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace tenax::compute
