// Communicators between GPUs. NCCL is opened when the first one is asked for; one GPU does without
// it.
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "compute/cuda/context.h"
#include "compute/cuda/library.h"

using tenax::cuda::copy_text;
using tenax::cuda::Library;
using tenax::cuda::Outcome;
using tenax::cuda::status_of_nccl;

static_assert(ncclUnhandledCudaError == 1 && ncclSystemError == 2 && ncclInvalidArgument == 4 &&
              ncclInvalidUsage == 5 && ncclRemoteError == 6 && ncclInProgress == 7);
static_assert(sizeof(ncclUniqueId) == TENAX_CUDA_NCCL_ID_BYTES);

namespace {

/// The functions used, by their own names.
struct Nccl {
  Library library{"libnccl.so.2"};
  decltype(ncclGetUniqueId)* get_unique_id = nullptr;
  decltype(ncclCommInitRankConfig)* init = nullptr;
  decltype(ncclCommGetAsyncError)* async_error = nullptr;
  decltype(ncclCommAbort)* abort = nullptr;
  decltype(ncclCommDestroy)* destroy = nullptr;
  decltype(ncclCommFinalize)* finalize = nullptr;
  decltype(ncclGroupStart)* group_start = nullptr;
  decltype(ncclGroupEnd)* group_end = nullptr;
  decltype(ncclAllReduce)* all_reduce = nullptr;
  decltype(ncclSend)* send = nullptr;
  decltype(ncclRecv)* recv = nullptr;
  decltype(ncclGetErrorString)* error_string = nullptr;

  /// Loads them; what is missing is left in `library`.
  bool load() {
    library.load("ncclGetUniqueId", get_unique_id);
    library.load("ncclCommInitRankConfig", init);
    library.load("ncclCommGetAsyncError", async_error);
    library.load("ncclCommAbort", abort);
    library.load("ncclCommDestroy", destroy);
    library.load("ncclCommFinalize", finalize);
    library.load("ncclGroupStart", group_start);
    library.load("ncclGroupEnd", group_end);
    library.load("ncclAllReduce", all_reduce);
    library.load("ncclSend", send);
    library.load("ncclRecv", recv);
    library.load("ncclGetErrorString", error_string);
    return library.missing().empty();
  }
};

}  // namespace

/// Named as in the C interface. Calls of NCCL are made under the mutex; as none of them blocks,
/// abort() gets it soon.
struct tenax_cuda_nccl final : tenax::cuda::Watched {
  explicit tenax_cuda_nccl(tenax_cuda_context& owner) : context(owner) {
    context.watched.push_back(this);
  }
  ~tenax_cuda_nccl() {
    std::erase(context.watched, this);
    // ncclCommDestroy would wait for what a lost peer never does.
    if (handle != nullptr)
      static_cast<void>(finalized && poll() == TENAX_CUDA_OK ? nccl.destroy(handle)
                                                             : nccl.abort(handle));
    if (begun != nullptr) static_cast<void>(cudaEventDestroy(begun));
    if (done != nullptr) static_cast<void>(cudaEventDestroy(done));
    if (stream != nullptr) static_cast<void>(cudaStreamDestroy(stream));
  }

  /// Opens library, stream and events.
  tenax_cuda_status prepare() {
    if (!nccl.load()) return context.fail({TENAX_CUDA_UNAVAILABLE, nccl.library.missing()});
    for (const cudaError_t error : {cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                                    cudaEventCreateWithFlags(&begun, cudaEventDisableTiming),
                                    cudaEventCreateWithFlags(&done, cudaEventDisableTiming)})
      if (const tenax_cuda_status status = context.check(error, "a stream for NCCL");
          status != TENAX_CUDA_OK)
        return status;
    return TENAX_CUDA_OK;
  }

  tenax_cuda_status keep(ncclResult_t result, const char* doing) {
    const tenax_cuda_status status = status_of_nccl(result);
    if (status != TENAX_CUDA_OK && status != TENAX_CUDA_IN_PROGRESS)
      message = std::string(doing) + ": " + nccl.error_string(result);
    return status;
  }

  tenax_cuda_status aborted_status() {
    if (failed != TENAX_CUDA_OK) return failed;
    message = "the communicator was aborted";
    return TENAX_CUDA_ABORTED;
  }

  /// From any thread.
  void abort() {
    aborted = true;
    const std::scoped_lock lock(mutex);
    if (handle != nullptr) static_cast<void>(nccl.abort(handle));
    handle = nullptr;
  }

  /// While the context's thread waits for its stream.
  void watch() override {
    if (aborted || handle == nullptr) return;
    const tenax_cuda_status status = poll();
    if (status == TENAX_CUDA_OK || status == TENAX_CUDA_IN_PROGRESS || aborted) return;
    failed = status;
    abort();
  }

  tenax_cuda_status finalize() {
    if (const tenax_cuda_status status = poll(); finalized || status != TENAX_CUDA_OK)
      return status;
    const std::scoped_lock lock(mutex);
    if (aborted) return aborted_status();
    finalized = true;
    return keep(nccl.finalize(handle), "ncclCommFinalize");
  }

  /// What NCCL is doing now.
  tenax_cuda_status poll() {
    const std::scoped_lock lock(mutex);
    if (aborted) return aborted_status();
    ncclResult_t state = ncclSuccess;
    if (const tenax_cuda_status asked =
            keep(nccl.async_error(handle, &state), "ncclCommGetAsyncError");
        asked != TENAX_CUDA_OK)
      return asked;
    return keep(state, "NCCL");
  }

  /// Until poll() says something else than IN_PROGRESS; abort() ends it.
  tenax_cuda_status settle() {
    constexpr std::chrono::microseconds kPause{50};
    for (;;) {
      const tenax_cuda_status status = poll();
      if (status != TENAX_CUDA_IN_PROGRESS) return status;
      std::this_thread::sleep_for(kPause);
    }
  }

  /// Begins f() on the stream, after the context's work; a call before must have settled.
  template <class F>
  tenax_cuda_status begin(F&& f, const char* doing) {
    if (const tenax_cuda_status settled = settle(); settled != TENAX_CUDA_OK) return settled;
    for (const cudaError_t error :
         {cudaEventRecord(begun, context.stream), cudaStreamWaitEvent(stream, begun, 0)})
      if (const tenax_cuda_status status = context.check(error, doing); status != TENAX_CUDA_OK) {
        message = context.message;
        return status;
      }
    const std::scoped_lock lock(mutex);
    if (aborted) return aborted_status();
    return keep(f(), doing);
  }

  tenax_cuda_context& context;
  Nccl nccl;
  std::mutex mutex;
  std::atomic<bool> aborted{false};
  ncclComm_t handle = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t begun = nullptr;
  cudaEvent_t done = nullptr;
  bool finalized = false;
  tenax_cuda_status failed = TENAX_CUDA_OK;  // what watch() found
  std::string message;
};

extern "C" {

tenax_cuda_status tenax_cuda_nccl_unique_id(char* id, char* message, size_t size) {
  Nccl nccl;
  if (!nccl.load()) {
    copy_text(nccl.library.missing(), message, size);
    return TENAX_CUDA_UNAVAILABLE;
  }
  ncclUniqueId made;
  const ncclResult_t result = nccl.get_unique_id(&made);
  copy_text(result == ncclSuccess ? "" : nccl.error_string(result), message, size);
  if (result == ncclSuccess) std::memcpy(id, made.internal, TENAX_CUDA_NCCL_ID_BYTES);
  return status_of_nccl(result);
}

tenax_cuda_status tenax_cuda_nccl_create(tenax_cuda_context* context, const char* id, int32_t rank,
                                         int32_t size, tenax_cuda_nccl** comm) {
  *comm = nullptr;
  if (context->lost()) return TENAX_CUDA_DEVICE_LOST;
  auto made = std::make_unique<tenax_cuda_nccl>(*context);
  if (const tenax_cuda_status status = made->prepare(); status != TENAX_CUDA_OK) return status;
  ncclUniqueId unique;
  std::memcpy(unique.internal, id, TENAX_CUDA_NCCL_ID_BYTES);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const tenax_cuda_status status = made->keep(
      made->nccl.init(&made->handle, size, unique, rank, &config), "ncclCommInitRankConfig");
  if (status != TENAX_CUDA_OK && status != TENAX_CUDA_IN_PROGRESS)
    return context->fail({status, made->message});
  *comm = made.release();
  return TENAX_CUDA_OK;
}

tenax_cuda_status tenax_cuda_nccl_poll(tenax_cuda_nccl* comm) { return comm->poll(); }

const char* tenax_cuda_nccl_message(tenax_cuda_nccl* comm) { return comm->message.c_str(); }

tenax_cuda_status tenax_cuda_nccl_all_reduce(tenax_cuda_nccl* comm, const float* from, float* to,
                                             int64_t count) {
  return comm->begin(
      [&] {
        return comm->nccl.all_reduce(from, to, static_cast<std::size_t>(count), ncclFloat32,
                                     ncclSum, comm->handle, comm->stream);
      },
      "ncclAllReduce");
}

tenax_cuda_status tenax_cuda_nccl_exchange(tenax_cuda_nccl* comm,
                                           const tenax_cuda_transfer* transfers,
                                           int32_t num_transfers) {
  return comm->begin(
      [&] {
        ncclResult_t first = comm->nccl.group_start();
        for (int32_t i = 0; i < num_transfers && first == ncclSuccess; ++i) {
          const tenax_cuda_transfer& t = transfers[i];
          const auto count = static_cast<std::size_t>(t.count);
          first =
              t.is_send != 0
                  ? comm->nccl.send(t.data, count, ncclFloat32, t.peer, comm->handle, comm->stream)
                  : comm->nccl.recv(t.data, count, ncclFloat32, t.peer, comm->handle, comm->stream);
          if (first == ncclInProgress) first = ncclSuccess;
        }
        // Ended also after an error: the group is the thread's.
        const ncclResult_t ended = comm->nccl.group_end();
        return first != ncclSuccess ? first : ended;
      },
      "an exchange by NCCL");
}

tenax_cuda_status tenax_cuda_nccl_join(tenax_cuda_nccl* comm) {
  if (const tenax_cuda_status settled = comm->settle(); settled != TENAX_CUDA_OK) return settled;
  for (const cudaError_t error : {cudaEventRecord(comm->done, comm->stream),
                                  cudaStreamWaitEvent(comm->context.stream, comm->done, 0)})
    if (const tenax_cuda_status status = comm->context.check(error, "waiting for NCCL");
        status != TENAX_CUDA_OK) {
      comm->message = comm->context.message;
      return status;
    }
  return TENAX_CUDA_OK;
}

tenax_cuda_status tenax_cuda_nccl_finalize(tenax_cuda_nccl* comm) { return comm->finalize(); }

void tenax_cuda_nccl_abort(tenax_cuda_nccl* comm) { comm->abort(); }

void tenax_cuda_nccl_destroy(tenax_cuda_nccl* comm) { delete comm; }

}  // extern "C"
