// What an engine holds, as the host sees it: copies for snapshots, restores and peers, and hashes.
#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <utility>

#include "common/check.h"
#include "compute/collectives.h"
#include "compute/engine.h"
#include "compute/engine_tags.h"

namespace tenax::compute {

namespace {

/// A stretch that is copied to the host and hashed at once.
constexpr std::size_t kHashFloats = std::size_t{1} << 22;

}  // namespace

Result<bool> Engine::begin_reading(std::span<float> host) {
  TENAX_CHECK(host.size() == state_size());
  std::size_t at = 0;
  for (const std::span<float> part : state()) {
    device_->begin_read(part, host.subspan(at, part.size()));
    at += part.size();
  }
  if (device_->host_visible()) return true;
  return false;
}

Status Engine::finish_reading() { return device_->finish_reads(); }

Result<Engine::HostState> Engine::host_state() {
  HostState host;
  host.parts = state();
  if (device_->host_visible()) return host;
  try {
    for (std::size_t i = 0; i < host.parts.size(); ++i) {
      host.memory[i] = AlignedBuffer(host.parts[i].size());
      host.parts[i] = host.memory[i].span();
    }
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kNoSpace,
                      fmt::format("rank {}: the host has no memory for the {} bytes of its state",
                                  options_.rank, state_size() * sizeof(float)));
  }
  return host;
}

Status Engine::store(const HostState& host) {
  if (device_->host_visible()) return {};
  const auto parts = state();
  for (std::size_t i = 0; i < parts.size(); ++i) device_->write(host.parts[i], parts[i]);
  return device_->status();
}

Result<Hash128> Engine::hash_of(std::span<const float> buffer) {
  if (device_->host_visible()) return hash128(std::as_bytes(buffer));
  Hasher128 hasher;
  const std::size_t stretch = std::min(kHashFloats, buffer.size());
  TENAX_TRY(DeviceBuffer room, device_->allocate_host(stretch));
  for (std::size_t at = 0; at < buffer.size(); at += stretch) {
    const std::span<float> host = room.span().first(std::min(stretch, buffer.size() - at));
    device_->read(buffer.subspan(at, host.size()), host);
    TENAX_RETURN_IF_ERROR(device_->status());
    hasher.update(std::as_bytes(host));
  }
  return hasher.digest();
}

Result<Hash128> Engine::own_gradient_hash() {
  Hasher128 hasher;
  hasher.update(std::as_bytes(std::span(loss_sums_)));
  for (const Chunk& chunk : chunks_) {
    TreeAccumulator& sums = *chunk.accumulator;
    TENAX_RETURN_IF_ERROR(sums.fetch());
    for (std::size_t i = 0; i < sums.subtrees().size(); ++i)
      hasher.update(std::as_bytes(std::span(sums.sums(i), sums.num_elements())));
  }
  return hasher.digest();
}

Status Engine::send_state(Communicator& comm, int peer) {
  for (const std::span<float> part : state()) {
    TENAX_TRY(const std::span<float> host, staging_.view(part));
    TENAX_RETURN_IF_ERROR(staging_.fetch(part, host));
    TENAX_RETURN_IF_ERROR(comm.send(peer, kStateTag, bytes_of(host))->wait());
  }
  return {};
}

Status Engine::recv_state(Communicator& comm, int peer) {
  for (const std::span<float> part : state()) {
    TENAX_TRY(const std::span<float> host, staging_.view(part));
    TENAX_RETURN_IF_ERROR(comm.recv(peer, kStateTag, writable_bytes_of(host))->wait());
    TENAX_RETURN_IF_ERROR(staging_.store(host, part));
  }
  return {};
}

Status Engine::take_state(Engine& other) {
  if (other.values().size() != values().size() || other.adam_m().size() != adam_m().size() ||
      other.options_.stage != options_.stage) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("stage {} cannot take the {} numbers of stage {}: it has {}", options_.stage,
                    other.values().size(), other.options_.stage, values().size()));
  }
  TENAX_CHECK(other.device_ == device_ ||
              (other.device_->host_visible() && device_->host_visible()));
  const auto from = other.state();
  const auto to = state();
  for (std::size_t i = 0; i < to.size(); ++i) device_->copy(from[i], to[i]);
  return device_->status();
}

Status Engine::share_weights(Communicator& comm) {
  if (options_.zero == 0) return {};
  const TraceSpan span(options_.trace, TraceKind::kShareWeights);
  if (peers_ != nullptr) {
    for (const GradientSection& section : shards_.sections) {
      if (section.norm_cuts.empty()) continue;
      TENAX_RETURN_IF_ERROR(all_gather_on(*peers_, replicas(), section.cuts, values()));
    }
    TENAX_RETURN_IF_ERROR(device_->status());
    return peers_->status();
  }
  const auto mine = static_cast<std::size_t>(options_.replica);
  TENAX_TRY(const std::span<float> host, staging_.view(values()));
  for (const GradientSection& section : shards_.sections) {
    if (section.norm_cuts.empty()) continue;
    const std::vector<std::size_t>& cuts = section.cuts;
    const auto part = [&](std::span<float> all, std::size_t i) {
      return all.subspan(cuts[i], cuts[i + 1] - cuts[i]);
    };
    TENAX_RETURN_IF_ERROR(staging_.fetch(part(values(), mine), part(host, mine)));
    std::ranges::transform(cuts, part_bytes_.begin(),
                           [](std::size_t cut) { return cut * sizeof(float); });
    TENAX_RETURN_IF_ERROR(
        all_gather_parts(comm, replicas(), kWeightsTag, part_bytes_, std::as_writable_bytes(host)));
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      if (i != mine) TENAX_RETURN_IF_ERROR(staging_.store(part(host, i), part(values(), i)));
    }
  }
  return {};
}

}  // namespace tenax::compute
