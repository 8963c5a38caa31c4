// From the third step on, the threads of an engine allocate nothing: not in kernels, nor in the
// schedule, our collectives, the verdict or the update. This program replaces malloc and counts the
// calls of every thread that did not exist before the engines.
//
// Excepted is what happens inside send(), recv() and wait() of the communicator. Gloo makes an
// UnboundBuffer and entries of its queues for each transfer; our handles of transfers come from a
// pool (compute/block_pool.h).
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/engine_setup.h"
#include "compute/block_pool.h"
#include "compute/collectives.h"
#include "compute/engine.h"
#include "compute/flight_recorder.h"
#include "compute/step_trace.h"
#include "tests/support/grid_model.h"
#include "tests/support/thread_world.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TENAX_COUNTS_MALLOC 0
#else
#define TENAX_COUNTS_MALLOC 1
#endif

namespace {

enum class Watch : int { kUnknown, kYes, kNo };

std::atomic<bool> counting{false};
std::atomic<long> num_allocations{0};
std::array<std::atomic<void*>, 8> first_callers{};
std::array<std::atomic<pid_t>, 256> unwatched{};  ///< threads that were there before
thread_local Watch watch = Watch::kUnknown;
thread_local int num_pauses = 0;

[[maybe_unused]] void count(void* caller) {
  if (!counting.load(std::memory_order_relaxed) || num_pauses > 0) return;
  if (watch == Watch::kUnknown) {
    watch = Watch::kYes;
    for (const auto& tid : unwatched)
      if (tid.load() == gettid()) watch = Watch::kNo;
  }
  if (watch == Watch::kNo) return;
  const auto n = static_cast<std::size_t>(num_allocations.fetch_add(1));
  if (n < first_callers.size()) first_callers[n] = caller;
}

/// Not counted while it lives.
struct Pause {
  Pause() { ++num_pauses; }
  ~Pause() { --num_pauses; }
};

}  // namespace

#if TENAX_COUNTS_MALLOC
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t n) noexcept {
  count(__builtin_return_address(0));
  return __libc_malloc(n);
}
void* calloc(std::size_t n, std::size_t size) noexcept {
  count(__builtin_return_address(0));
  return __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t n) noexcept {
  count(__builtin_return_address(0));
  return __libc_realloc(p, n);
}
void* aligned_alloc(std::size_t alignment, std::size_t n) noexcept {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, n);
}
void* memalign(std::size_t alignment, std::size_t n) noexcept {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, n);
}
int posix_memalign(void** p, std::size_t alignment, std::size_t n) noexcept {
  count(__builtin_return_address(0));
  *p = __libc_memalign(alignment, n);
  return *p == nullptr ? ENOMEM : 0;
}
}
#endif

namespace tenax::test {
namespace {

/// Does not count what the inner communicator does.
class UncountedCommunicator final : public compute::Communicator {
 public:
  explicit UncountedCommunicator(compute::Communicator& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int world_size() const override { return inner_.world_size(); }
  std::unique_ptr<compute::Transfer> send(int peer, std::uint64_t tag,
                                          std::span<const std::byte> bytes) override {
    const Pause pause;
    return std::make_unique<Uncounted>(inner_.send(peer, tag, bytes));
  }
  std::unique_ptr<compute::Transfer> recv(int peer, std::uint64_t tag,
                                          std::span<std::byte> bytes) override {
    const Pause pause;
    return std::make_unique<Uncounted>(inner_.recv(peer, tag, bytes));
  }
  void abort(std::string reason) override { inner_.abort(std::move(reason)); }
  compute::FlightRecorder* flight_recorder() const override { return inner_.flight_recorder(); }

 private:
  class Uncounted final : public compute::Transfer {
   public:
    explicit Uncounted(std::unique_ptr<compute::Transfer> inner) : inner_(std::move(inner)) {}
    ~Uncounted() override {
      const Pause pause;
      inner_.reset();
    }
    Status wait() override {
      const Pause pause;
      return inner_->wait();
    }

   private:
    std::unique_ptr<compute::Transfer> inner_;
  };
  compute::Communicator& inner_;
};

void note_present_threads() {
  std::size_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    ASSERT_LT(n, unwatched.size());
    unwatched[n++] = static_cast<pid_t>(std::stol(entry.path().filename().string()));
  }
}

void train_rank(const configs::RunConfig& config, compute::Communicator& inner) {
  constexpr std::int64_t kVocabulary = 257;
  constexpr int kSteps = 6;
  UncountedCommunicator comm(inner);
  const std::vector<int> world = all_ranks(comm.world_size());
  const auto together = [&](const std::function<void()>& on_first) {
    ASSERT_TRUE(compute::barrier(comm, {world, comm.rank()}, 1));
    if (comm.rank() == 0) on_first();
    ASSERT_TRUE(compute::barrier(comm, {world, comm.rank()}, 2));
  };
  together(note_present_threads);
  watch = Watch::kYes;

  const SystemClock clock;
  compute::StepTrace trace(clock, 4096);
  auto options =
      actors::engine_options(config, kVocabulary, actors::degrees_of(config), comm.rank());
  options.bucket_bytes = 0;
  options.trace = &trace;
  options.settings.num_threads = 2;
  auto engine = compute::Engine::create(std::move(options));
  ASSERT_TRUE(engine) << engine.error().message;
  (*engine)->initialise(1);
  const compute::EngineOptions& o = (*engine)->options();
  const auto tokens_of_batch = static_cast<std::size_t>(o.shape.sequence_length);
  const std::vector<std::int32_t> tokens(tokens_of_batch, 3);
  const std::vector<std::int64_t> samples(1, 5);
  compute::Microbatch microbatch;
  microbatch.tokens = tokens;
  microbatch.targets = tokens;
  microbatch.samples = samples;
  const std::vector<compute::Microbatch> mine(
      static_cast<std::size_t>(o.ranges[static_cast<std::size_t>(o.replica)].size()), microbatch);
  for (int step = 1; step <= kSteps; ++step) {
    if (step == 3) together([] { counting = true; });
    trace.begin_step(step);
    ASSERT_TRUE((*engine)->compute_gradients(comm, mine));
    compute::VerdictPart part = (*engine)->verdict_part();
    part.step = step;
    const auto verdict = (*engine)->exchange_verdict(comm, part);
    ASSERT_TRUE(verdict);
    (*engine)->apply_update({verdict->grad_norm, 1.0, verdict->targets, 1e-3, step});
    ASSERT_TRUE((*engine)->share_weights(comm));
  }
  together([] { counting = false; });
}

void expect_no_allocation(const configs::RunConfig& config) {
  num_allocations = 0;
  run_world(actors::degrees_of(config).world_size(),
            [&](compute::Communicator& comm) { train_rank(config, comm); });
  EXPECT_EQ(num_allocations, 0);
  for (const auto& caller : first_callers) {
    Dl_info info{};
    if (caller.load() == nullptr || dladdr(caller.load(), &info) == 0) continue;
    ADD_FAILURE() << "allocated by " << (info.dli_sname != nullptr ? info.dli_sname : "?") << " at "
                  << info.dli_fname << "+"
                  << static_cast<char*>(caller.load()) - static_cast<char*>(info.dli_fbase);
  }
  for (auto& caller : first_callers) caller = nullptr;
}

configs::RunConfig config_of(int dp, int tp, int pp) {
  configs::RunConfig c = world_options().config;
  c.layout.data_parallel = dp;
  c.layout.tensor_parallel = tp;
  c.layout.pipeline_parallel = pp;
  return c;
}

class StepAllocation : public ::testing::Test {
 protected:
  void SetUp() override {
    if (TENAX_COUNTS_MALLOC == 0) GTEST_SKIP() << "the sanitizer has malloc";
  }
};

TEST_F(StepAllocation, TheCounterCounts) {
  num_allocations = 0;
  watch = Watch::kYes;
  counting = true;
  auto* volatile p = new int(5);
  {
    const Pause pause;
    auto* volatile q = new int(6);
    delete q;
  }
  counting = false;
  watch = Watch::kUnknown;
  delete p;
  EXPECT_EQ(num_allocations, 1);
  for (auto& caller : first_callers) caller = nullptr;
}

TEST_F(StepAllocation, NoneInOneProcess) { expect_no_allocation(config_of(1, 1, 1)); }

TEST_F(StepAllocation, NoneWithUnevenReplicasAndAShardedOptimizer) {
  configs::RunConfig c = config_of(3, 1, 1);
  c.train.global_batch_size = 8;
  expect_no_allocation(c);
  c.layout.zero = 1;
  expect_no_allocation(c);
}

TEST_F(StepAllocation, NoneInAPipelineOfReplicasWithVirtualStages) {
  configs::RunConfig c = config_of(2, 1, 2);
  c.layout.virtual_stages = 2;
  c.layout.zero = 1;
  c.train.recompute = compute::Recompute::kSelective;
  c.train.dropout = {0.1, 0.1, 0.1};
  expect_no_allocation(c);
}

TEST_F(StepAllocation, NoneWithTensorParallelism) {
  configs::RunConfig c = config_of(1, 2, 2);
  c.train.recompute = compute::Recompute::kFull;
  c.train.precision = compute::Precision::kBf16;
  expect_no_allocation(c);
}

TEST_F(StepAllocation, TransferHandlesAreReused) {
  const auto pool = std::make_shared<compute::BlockPool>();
  std::array<void*, 3> blocks{};
  for (void*& block : blocks) block = compute::BlockPool::take(pool, 100);
  for (void* block : blocks) compute::BlockPool::give(block);
  num_allocations = 0;
  watch = Watch::kYes;
  counting = true;
  for (int round = 0; round < 10; ++round) {
    for (void*& block : blocks) block = compute::BlockPool::take(pool, 100);
    for (void* block : blocks) compute::BlockPool::give(block);
  }
  counting = false;
  watch = Watch::kUnknown;
  EXPECT_EQ(num_allocations, 0);
  for (auto& caller : first_callers) caller = nullptr;
}

}  // namespace
}  // namespace tenax::test
