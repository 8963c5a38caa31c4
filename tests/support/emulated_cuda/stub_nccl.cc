// A libnccl.so.2 for ranks that are threads of one process, over the emulated device's memory: as
// little of NCCL as the plugin calls, never blocking. A rank whose peer is gone waits for ever, as
// with the real one, until it is aborted. TENAX_STUB_NCCL_ERROR makes polling report a remote error
// as soon as that file exists; an abort removes the file of TENAX_EMULATED_BUSY (cuda_runtime.h).
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Transfer {
  ncclComm* comm = nullptr;
  char* data = nullptr;
  std::size_t bytes = 0;
};

struct Reduction {
  ncclComm* comm = nullptr;
  int rank = 0;
  const float* from = nullptr;
  float* to = nullptr;
  std::size_t count = 0;
};

struct World {
  std::string name;
  int size = 0;
  int joined = 0;
  int finalized = 0;
  std::map<std::pair<int, int>, std::deque<Transfer>> sends;  // by (from, to)
  std::map<std::pair<int, int>, std::deque<Transfer>> recvs;
  std::vector<Reduction> reductions;
};

struct Operation {
  bool is_send = false;
  int peer = 0;
  Transfer transfer;
};

std::mutex mutex;
std::map<std::string, std::shared_ptr<World>> worlds;
long num_ids = 0;
thread_local int depth = 0;
thread_local std::vector<Operation> group;

}  // namespace

struct ncclComm {
  std::shared_ptr<World> world;
  int rank = 0;
  int pending = 0;
  bool is_finalized = false;
};

namespace {

ncclComm* join(const std::string& name, int size, int rank) {
  std::shared_ptr<World>& world = worlds[name];
  if (world == nullptr) {
    world = std::make_shared<World>();
    world->name = name;
    world->size = size;
  }
  ++world->joined;
  return new ncclComm{world, rank};
}

void post(const Operation& operation) {
  ncclComm* const comm = operation.transfer.comm;
  World& world = *comm->world;
  const std::pair<int, int> route = operation.is_send ? std::pair(comm->rank, operation.peer)
                                                      : std::pair(operation.peer, comm->rank);
  auto& others = operation.is_send ? world.recvs[route] : world.sends[route];
  ++comm->pending;
  if (others.empty()) {
    (operation.is_send ? world.sends : world.recvs)[route].push_back(operation.transfer);
    return;
  }
  const Transfer other = others.front();
  others.pop_front();
  const Transfer& from = operation.is_send ? operation.transfer : other;
  const Transfer& to = operation.is_send ? other : operation.transfer;
  if (from.bytes != to.bytes) std::abort();  // undefined with the real one
  std::memcpy(to.data, from.data, from.bytes);
  --comm->pending;
  --other.comm->pending;
}

/// What the communicator began and nobody has answered.
void forget(ncclComm* comm) {
  const auto is_ours = [&](const auto& entry) { return entry.comm == comm; };
  for (auto* const queues : {&comm->world->sends, &comm->world->recvs})
    for (auto& [route, queue] : *queues) std::erase_if(queue, is_ours);
  std::erase_if(comm->world->reductions, is_ours);
}

std::size_t size_of(ncclDataType_t type) { return type == ncclFloat32 ? 4 : 1; }

ncclResult_t begin(Operation operation) {
  group.push_back(operation);
  if (depth > 0) return ncclSuccess;
  ++depth;
  return ncclGroupEnd();
}

}  // namespace

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::scoped_lock lock(mutex);
  *id = {};
  const std::string name = "stub " + std::to_string(getpid()) + " " + std::to_string(++num_ids);
  std::memcpy(id->internal, name.c_str(), name.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0 || rank < 0 || rank >= size) return ncclInvalidArgument;
  const std::scoped_lock lock(mutex);
  *comm = join(id.internal, size, rank);
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const std::scoped_lock lock(mutex);
  const char* const error = std::getenv("TENAX_STUB_NCCL_ERROR");
  if (error != nullptr && access(error, F_OK) == 0)
    *state = ncclRemoteError;
  else
    *state = comm->world->joined < comm->world->size || comm->pending > 0 ||
                     (comm->is_finalized && comm->world->finalized < comm->world->size)
                 ? ncclInProgress
                 : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const std::scoped_lock lock(mutex);
  forget(comm);
  delete comm;
  if (const char* const busy = std::getenv("TENAX_EMULATED_BUSY"); busy != nullptr) unlink(busy);
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::scoped_lock lock(mutex);
  if (comm->is_finalized) return ncclInvalidUsage;
  comm->is_finalized = true;
  ++comm->world->finalized;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (!comm->is_finalized || comm->world->finalized < comm->world->size)
    std::abort();  // the real one blocks
  return ncclCommAbort(comm);
}

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--depth > 0) return ncclSuccess;
  const std::scoped_lock lock(mutex);
  bool is_pending = false;
  for (const Operation& operation : group) post(operation);
  for (const Operation& operation : group)
    is_pending = is_pending || operation.transfer.comm->pending > 0;
  group.clear();
  return is_pending ? ncclInProgress : ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t, ncclComm_t comm, cudaStream_t) {
  if (type != ncclFloat32) return ncclInvalidArgument;
  const std::scoped_lock lock(mutex);
  World& world = *comm->world;
  ++comm->pending;
  world.reductions.push_back(
      {comm, comm->rank, static_cast<const float*>(from), static_cast<float*>(to), count});
  if (static_cast<int>(world.reductions.size()) < world.size) return ncclInProgress;
  std::ranges::sort(world.reductions, {}, &Reduction::rank);
  std::vector<float> sum(count, 0.0f);
  for (const Reduction& r : world.reductions)
    for (std::size_t i = 0; i < count; ++i) sum[i] += r.from[i];
  for (const Reduction& r : world.reductions) {
    std::ranges::copy(sum, r.to);
    --r.comm->pending;
  }
  world.reductions.clear();
  return ncclSuccess;
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t) {
  return begin({true,
                peer,
                {comm, const_cast<char*>(static_cast<const char*>(from)), count * size_of(type)}});
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t) {
  return begin({false, peer, {comm, static_cast<char*>(to), count * size_of(type)}});
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error"
                                   : "an error of the stub";
}

}  // extern "C"
