#include "compute/nccl_peers.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "common/check.h"

namespace tenax::compute {
namespace {

using Id = std::array<char, TENAX_CUDA_NCCL_ID_BYTES>;
constexpr std::size_t kMessageBytes = 512;
constexpr std::chrono::milliseconds kPause{2};

/// Two letters a byte: a rendezvous carries text.
std::string to_text(const Id& id) {
  std::string text;
  for (const char c : id) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text;
}

Result<Id> from_text(const std::string& text) {
  Id id{};
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  bool valid = text.size() == 2 * id.size();
  for (std::size_t i = 0; valid && i < id.size(); ++i) {
    const int high = digit(text[2 * i]);
    const int low = digit(text[2 * i + 1]);
    valid = high >= 0 && low >= 0;
    id[i] = static_cast<char>(16 * high + low);
  }
  if (!valid)
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("NCCL: an id of {} letters, expected {} hexadecimal ones",
                                  text.size(), 2 * id.size()));
  return id;
}

Result<Id> make_id(const CudaPlugin& plugin) {
  Id id{};
  std::array<char, kMessageBytes> message{};
  const tenax_cuda_status status = plugin.nccl_unique_id(id.data(), message.data(), message.size());
  TENAX_RETURN_IF_ERROR(cuda_status(status, message.data()));
  return id;
}

}  // namespace

std::string NcclPeers::missing(const CudaPlugin& plugin) {
  const auto id = make_id(plugin);
  return id ? std::string() : id.error().message;
}

Result<std::unique_ptr<DevicePeers>> NcclPeers::create(std::shared_ptr<CudaDevice> device,
                                                       const NcclOptions& options,
                                                       Rendezvous& rendezvous,
                                                       std::stop_token stop) {
  std::unique_ptr<NcclPeers> peers(new NcclPeers(std::move(device)));
  TENAX_RETURN_IF_ERROR(peers->form(options, rendezvous, stop));
  peers->abort_on_stop_.emplace(std::move(stop),
                                [raw = peers.get()] { raw->abort("the generation has ended"); });
  return std::unique_ptr<DevicePeers>(std::move(peers));
}

Result<NcclNeighbours> NcclPeers::connect_neighbours(std::shared_ptr<CudaDevice> device,
                                                     const NcclOptions& options,
                                                     const PipelinePlace& place,
                                                     Rendezvous& rendezvous, std::stop_token stop) {
  NcclNeighbours mine;
  const int n = static_cast<int>(place.ranks.size());
  // Each forms when both are there; in ascending order nobody waits in a circle.
  const auto connect = [&](std::string_view way, int from, int to, DevicePeers*& out,
                           DevicePeers*& in) -> Status {
    if (place.stage != from && place.stage != to) return {};
    NcclOptions link = options;
    link.rank = place.stage == from ? 0 : 1;
    link.world_size = 2;
    link.key_prefix = fmt::format("{}/{} {}-{}", options.key_prefix, way,
                                  place.ranks[static_cast<std::size_t>(from)],
                                  place.ranks[static_cast<std::size_t>(to)]);
    TENAX_TRY(auto peers, create(device, link, rendezvous, stop));
    (place.stage == from ? out : in) = peers.get();
    mine.owners.push_back(std::move(peers));
    return {};
  };
  for (int stage = 0; stage < (place.wraps ? n : n - 1); ++stage) {
    const int next = (stage + 1) % n;
    TENAX_RETURN_IF_ERROR(
        connect("forward", stage, next, mine.links.forward_out, mine.links.forward_in));
    TENAX_RETURN_IF_ERROR(
        connect("backward", next, stage, mine.links.backward_out, mine.links.backward_in));
  }
  return mine;
}

Status NcclPeers::form(const NcclOptions& options, Rendezvous& rendezvous,
                       const std::stop_token& stop) {
  const CudaPlugin& plugin = device_->plugin();
  const std::string key = options.key_prefix + "/nccl";
  const auto latest = std::chrono::steady_clock::now() + options.form_timeout;
  Id id{};
  if (options.rank == 0) {
    TENAX_TRY(id, make_id(plugin));
    TENAX_RETURN_IF_ERROR(rendezvous.publish(key, to_text(id)));
  } else {
    TENAX_TRY(const std::string text, rendezvous.wait(key, options.form_timeout));
    TENAX_TRY(id, from_text(text));
  }
  TENAX_RETURN_IF_ERROR(device_->form_nccl(id.data(), options.rank, options.world_size, &comm_));
  for (;;) {
    const tenax_cuda_status status = plugin.nccl_poll(comm_);
    if (status != TENAX_CUDA_IN_PROGRESS) return outcome(status);
    if (stop.stop_requested()) {
      abort("the generation has ended");
    } else if (std::chrono::steady_clock::now() > latest) {
      abort("not all ranks came");
      return make_error(
          ErrorCode::kTimeout,
          fmt::format("NCCL, rank {}: not all of {} ranks came within {:.0f} s", options.rank,
                      options.world_size, to_seconds(options.form_timeout)));
    }
    std::this_thread::sleep_for(kPause);
  }
}

NcclPeers::~NcclPeers() {
  abort_on_stop_.reset();
  if (comm_ != nullptr) device_->plugin().nccl_destroy(comm_);
}

Status NcclPeers::outcome(tenax_cuda_status status) {
  if (status == TENAX_CUDA_OK) return {};
  if (status == TENAX_CUDA_ABORTED) {
    MutexLock lock(mutex_);
    return make_error(ErrorCode::kAborted, fmt::format("NCCL: {}", reason_));
  }
  return cuda_status(status, fmt::format("NCCL: {}", device_->plugin().nccl_message(comm_)));
}

Status NcclPeers::begin(std::span<const DeviceTransfer> transfers) {
  if (transfers.empty()) return {};
  std::vector<tenax_cuda_transfer> calls;
  for (const DeviceTransfer& t : transfers) {
    TENAX_CHECK(!t.buffer.empty());
    tenax_cuda_transfer call{};
    call.data = t.buffer.data();
    call.count = static_cast<std::int64_t>(t.buffer.size());
    call.peer = t.peer;
    call.is_send = t.kind == TransferKind::kSend ? 1 : 0;
    calls.push_back(call);
  }
  const CudaPlugin& plugin = device_->plugin();
  const auto count = static_cast<std::int32_t>(calls.size());
  const tenax_cuda_status status = plugin.nccl_exchange(comm_, calls.data(), count);
  if (status != TENAX_CUDA_IN_PROGRESS) TENAX_RETURN_IF_ERROR(outcome(status));
  for (const DeviceTransfer& t : transfers)
    if (t.kind == TransferKind::kRecv) arriving_.push_back(t.buffer);
  return {};
}

Status NcclPeers::join() {
  TENAX_RETURN_IF_ERROR(outcome(device_->plugin().nccl_join(comm_)));
  for (const std::span<float> buffer : arriving_) device_->changed(buffer);
  arriving_.clear();
  return {};
}

Status NcclPeers::status() { return outcome(device_->plugin().nccl_poll(comm_)); }

bool NcclPeers::finish() {
  return device_->plugin().nccl_finalize(comm_) != TENAX_CUDA_IN_PROGRESS;
}

void NcclPeers::abort(std::string reason) {
  {
    MutexLock lock(mutex_);
    if (reason_.empty()) reason_ = std::move(reason);
  }
  device_->plugin().nccl_abort(comm_);
}

void finish_in_order(DevicePeers* world, const NcclNeighbours& neighbours, Duration patience) {
  std::vector<DevicePeers*> left;
  if (world != nullptr) left.push_back(world);
  for (const auto& owner : neighbours.owners) left.push_back(owner.get());
  const auto latest = std::chrono::steady_clock::now() + patience;
  for (;;) {
    // Every one is asked each time: ranks that have them in other orders do not wait in a circle.
    std::erase_if(left, [](DevicePeers* peers) { return peers->finish(); });
    if (left.empty() || std::chrono::steady_clock::now() > latest) return;
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace tenax::compute
