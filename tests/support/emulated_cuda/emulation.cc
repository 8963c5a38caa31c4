// Fibers for the threads of a block, and the runtime's calls over plain memory.
#include <cuda_runtime.h>
#include <ucontext.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

/// Copies that nothing has waited for yet.
struct EmulatedStream {
  std::deque<std::function<void()>> queue;
  std::uint64_t executed = 0;
  std::uint64_t queued() const { return executed + queue.size(); }
  void run_until(std::uint64_t position) {
    for (; executed < position && !queue.empty(); ++executed) {
      const auto copy = std::move(queue.front());
      queue.pop_front();
      copy();
    }
  }
};
struct EmulatedEvent {
  EmulatedStream* stream = nullptr;
  std::uint64_t position = 0;
};

namespace tenax::emulation {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;
constexpr unsigned kLanes = 32;
constexpr int kIllegalAddress = 700;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated device: %s (block %u,%u,%u thread %u)\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, threadIdx.x);
  std::abort();
}

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  bool done = true;
  std::uint64_t block_barriers = 0;  ///< reached so far
  std::uint64_t shuffles = 0;
  /// Values of its shuffles, alternating: a lane is never two ahead of another.
  std::uint32_t slots[2] = {};
};

/// The one block that runs.
class Block {
 public:
  void run(unsigned num_threads, const std::function<void()>& thread) {
    thread_ = &thread;
    while (fibers_.size() < num_threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack = std::make_unique<char[]>(kStackBytes);
    }
    num_threads_ = num_threads;
    for (unsigned i = 0; i < num_threads; ++i) {
      Fiber& fiber = *fibers_[i];
      fiber.done = false;
      fiber.block_barriers = fiber.shuffles = 0;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    for (unsigned left = num_threads; left > 0;) {
      progress_ = false;
      for (unsigned i = 0; i < num_threads; ++i) {
        if (fibers_[i]->done) continue;
        current_ = i;
        threadIdx = dim3(i, 0, 0);
        swapcontext(&scheduler_, &fibers_[i]->context);
        if (fibers_[i]->done) {
          --left;
          progress_ = true;
        }
      }
      if (!progress_) fail("threads wait for each other for ever");
    }
  }

  void sync_threads() {
    Fiber& mine = *fibers_[current_];
    const std::uint64_t target = ++mine.block_barriers;
    progress_ = true;
    wait([&] {
      for (unsigned i = 0; i < num_threads_; ++i) {
        if (fibers_[i]->block_barriers >= target) continue;
        if (fibers_[i]->done) fail("a thread ended before a barrier of its block");
        return false;
      }
      return true;
    });
  }

  std::uint32_t shuffle_xor(std::uint32_t bits, int mask) {
    Fiber& mine = *fibers_[current_];
    const unsigned first = current_ / kLanes * kLanes;
    if (first + kLanes > num_threads_) fail("a shuffle in a warp that is not full");
    mine.slots[mine.shuffles % 2] = bits;
    const std::uint64_t target = ++mine.shuffles;
    progress_ = true;
    wait([&] {
      for (unsigned i = first; i < first + kLanes; ++i) {
        if (fibers_[i]->shuffles >= target) continue;
        if (fibers_[i]->done) fail("a lane ended before a shuffle of its warp");
        return false;
      }
      return true;
    });
    return fibers_[first + ((current_ - first) ^ static_cast<unsigned>(mask))]
        ->slots[(target - 1) % 2];
  }

  std::vector<float> shared;

 private:
  static void enter();

  template <class Condition>
  void wait(Condition&& condition) {
    const unsigned self = current_;
    while (!condition()) swapcontext(&fibers_[self]->context, &scheduler_);
    progress_ = true;
  }

  ucontext_t scheduler_{};
  std::vector<std::unique_ptr<Fiber>> fibers_;
  const std::function<void()>* thread_ = nullptr;
  unsigned num_threads_ = 0;
  unsigned current_ = 0;
  bool progress_ = false;
};

struct Machine {
  std::recursive_mutex mutex;
  Block block;
  std::set<Stream> streams;
  std::map<const char*, std::size_t> memory;  ///< the device's
  std::map<const char*, std::size_t> pinned;  ///< of the host: copies from there read it late
  std::size_t copied[2] = {};
  std::size_t launches = 0;
  int failing_allocations = 0;
  int broken = cudaSuccess;
  std::size_t allocated = 0;
};

Machine& machine() {
  static Machine* const instance = new Machine;
  return *instance;
}

void Block::enter() {
  Block& block = machine().block;
  const unsigned self = block.current_;
  (*block.thread_)();
  block.fibers_[self]->done = true;
}

bool lies_in(const std::map<const char*, std::size_t>& blocks, const void* p) {
  const auto after = blocks.upper_bound(static_cast<const char*>(p));
  if (after == blocks.begin()) return false;
  const auto [begin, bytes] = *std::prev(after);
  return static_cast<const char*>(p) < begin + bytes;
}

bool is_device_memory(const void* p) { return lies_in(machine().memory, p); }

}  // namespace

void finish(Stream stream) {
  const std::scoped_lock lock(machine().mutex);
  stream->run_until(stream->queued());
}

void launch(Stream stream, dim3 grid, dim3 block, std::size_t shared_bytes,
            const std::function<void()>& thread) {
  Machine& m = machine();
  const std::scoped_lock lock(m.mutex);
  finish(stream);
  // A fault for one of several processes: whoever gets to remove the file has it.
  if (const char* fault = std::getenv("TENAX_EMULATED_FAULT");
      fault != nullptr && m.broken == cudaSuccess && unlink(fault) == 0)
    m.broken = kIllegalAddress;
  if (m.broken != cudaSuccess) return;
  ++m.launches;
  blockIdx = threadIdx = dim3(0, 0, 0);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail("an empty grid");
  if (grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535) fail("a grid beyond the limits");
  if (block.y != 1 || block.z != 1 || block.x == 0 || block.x > 1024) fail("a block of this shape");
  if (shared_bytes > 227 << 10) fail("more shared memory than a block has");
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        m.block.shared.assign(shared_bytes / sizeof(float),
                              std::numeric_limits<float>::quiet_NaN());
        m.block.run(block.x, thread);
      }
}

float* dynamic_shared() { return machine().block.shared.data(); }
void sync_threads() { machine().block.sync_threads(); }
std::uint32_t shuffle_xor(std::uint32_t bits, int mask) {
  return machine().block.shuffle_xor(bits, mask);
}
void spin(std::uint64_t nanoseconds) {
  std::this_thread::sleep_for(std::chrono::nanoseconds(nanoseconds));
}
void store(float* to, float value) {
  if (is_device_memory(to)) {
    *to = value;
  } else {
    machine().broken = kIllegalAddress;
  }
}
void fail_next_allocations(int count) { machine().failing_allocations = count; }
void break_context(int error) { machine().broken = error; }
std::size_t allocated_bytes() { return machine().allocated; }
std::size_t num_launches() { return machine().launches; }
std::size_t copied_bytes(bool to_host) { return machine().copied[to_host ? 1 : 0]; }

}  // namespace tenax::emulation

using tenax::emulation::machine;

namespace {
constexpr std::size_t kMemory = std::size_t{1} << 30;
constexpr std::size_t kHeader = 64;
constexpr std::size_t kDeviceHeader = 256;  // holds the size; keeps CUDA's alignment
}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  const char* const devices = std::getenv("TENAX_EMULATED_DEVICES");
  *count = devices == nullptr ? 1 : std::atoi(devices);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "emulated");
  p->totalGlobalMem = kMemory;
  p->sharedMemPerBlockOptin = 227 << 10;
  p->major = 9;
  p->multiProcessorCount = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int size, int device) {
  std::snprintf(id, static_cast<std::size_t>(size), "0000:%02x:00.0",
                static_cast<unsigned>(device));
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  // Which processes have a context, and so hold some of a real device's memory.
  if (const char* const contexts = std::getenv("TENAX_EMULATED_CONTEXTS")) {
    if (std::FILE* const file = std::fopen(contexts, "a")) {
      std::fprintf(file, "%d\n", static_cast<int>(getpid()));
      std::fclose(file);
    }
  }
  return machine().broken;
}
cudaError_t cudaDriverGetVersion(int* version) {
  const char* const other = std::getenv("TENAX_EMULATED_DRIVER");
  *version = other == nullptr ? 13000 : std::atoi(other);
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = kMemory - machine().allocated;
  *total = kMemory;
  return machine().broken;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const std::scoped_lock lock(machine().mutex);
  if (machine().broken != cudaSuccess) return machine().broken;
  if (machine().failing_allocations > 0) {
    --machine().failing_allocations;
    return cudaErrorMemoryAllocation;
  }
  if (machine().allocated + bytes > kMemory) return cudaErrorMemoryAllocation;
  void* whole = nullptr;
  // To the byte, so that address sanitizer sees the first one behind the end.
  if (posix_memalign(&whole, kDeviceHeader, kDeviceHeader + bytes) != 0)
    return cudaErrorMemoryAllocation;
  auto* const block = static_cast<char*>(whole);
  std::memset(block, 0xFF, bytes + kDeviceHeader);  // NaN until written
  std::memcpy(block, &bytes, sizeof bytes);
  machine().allocated += bytes;
  *memory = block + kDeviceHeader;
  machine().memory[block + kDeviceHeader] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const std::scoped_lock lock(machine().mutex);
  for (const auto stream : machine().streams) tenax::emulation::finish(stream);
  machine().memory.erase(static_cast<char*>(memory));
  auto* const block = static_cast<char*>(memory) - kDeviceHeader;
  std::size_t bytes = 0;
  std::memcpy(&bytes, block, sizeof bytes);
  machine().allocated -= bytes;
  std::free(block);
  return machine().broken;
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  *memory = std::aligned_alloc(kHeader, (bytes + kHeader - 1) / kHeader * kHeader);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaHostRegister(*memory, bytes, 0);
}
cudaError_t cudaFreeHost(void* memory) {
  cudaHostUnregister(memory);
  std::free(memory);
  return machine().broken;
}
cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned) {
  const std::scoped_lock lock(machine().mutex);
  machine().pinned.emplace(static_cast<const char*>(memory), bytes);
  return machine().broken;
}
cudaError_t cudaHostUnregister(void* memory) {
  const std::scoped_lock lock(machine().mutex);
  machine().pinned.erase(static_cast<const char*>(memory));
  return machine().broken;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  tenax::emulation::finish(stream);
  if (machine().broken == cudaSuccess) std::memset(memory, value, bytes);
  return machine().broken;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  const std::scoped_lock lock(machine().mutex);
  // What comes from pageable memory of the host is taken at once: the caller may free it.
  std::shared_ptr<std::vector<char>> staged;
  if (!tenax::emulation::is_device_memory(from) &&
      !tenax::emulation::lies_in(machine().pinned, from)) {
    const char* const begin = static_cast<const char*>(from);
    staged = std::make_shared<std::vector<char>>(begin, begin + bytes);
  }
  stream->queue.push_back([=] {
    if (machine().broken != cudaSuccess) return;
    std::memcpy(to, staged ? staged->data() : from, bytes);
    const bool to_device = tenax::emulation::is_device_memory(to);
    if (to_device != tenax::emulation::is_device_memory(from))
      machine().copied[to_device ? 0 : 1] += bytes;
  });
  return machine().broken;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::scoped_lock lock(machine().mutex);
  *stream = new EmulatedStream;
  machine().streams.insert(*stream);
  return machine().broken;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::scoped_lock lock(machine().mutex);
  tenax::emulation::finish(stream);
  machine().streams.erase(stream);
  delete stream;
  return machine().broken;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  tenax::emulation::finish(stream);
  return machine().broken;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const char* const busy = std::getenv("TENAX_EMULATED_BUSY");
  if (busy != nullptr && access(busy, F_OK) == 0) return cudaErrorNotReady;
  return cudaStreamSynchronize(stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  return cudaEventSynchronize(event);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return machine().broken;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return machine().broken;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::scoped_lock lock(machine().mutex);
  *event = {stream, stream->queued()};
  return machine().broken;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::scoped_lock lock(machine().mutex);
  if (event->stream != nullptr) event->stream->run_until(event->position);
  return machine().broken;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return machine().broken; }
cudaError_t cudaGetLastError() { return machine().broken; }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorEmulated"; }
const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
