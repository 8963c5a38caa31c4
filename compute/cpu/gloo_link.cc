#include "compute/cpu/gloo_link.h"

#include <fmt/format.h>
#include <gloo/transport/context.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "compute/cpu/gloo_mesh.h"

namespace tenax::compute {
namespace {

using gloo::transport::UnboundBuffer;

constexpr std::uint64_t kAlarmSlot = 0xb5c0fbcfec4d3b2full;
/// Gloo closes every connection when a wait ends by its limit, so the watcher's must never.
constexpr std::chrono::hours kForever{24 * 365 * 10};

/// Gloo ends the process when a message is longer than the receive it meets. With the length in the
/// slot such messages do not meet: both sides time out instead.
std::uint64_t slot_of(std::uint64_t tag, std::size_t bytes) {
  std::uint64_t x = tag ^ (0x9e3779b97f4a7c15ull * (bytes + 1));
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

std::chrono::milliseconds to_gloo(Duration timeout) {
  return std::max(std::chrono::ceil<std::chrono::milliseconds>(timeout),
                  std::chrono::milliseconds(1));
}

void cancel_wait(const GlooOperation& operation) {
  if (operation.direction == Direction::kSend) {
    operation.buffer->abortWaitSend();
  } else {
    operation.buffer->abortWaitRecv();
  }
}

/// True if the bytes have moved, false if cancel_wait() was called; throws Gloo's exceptions.
bool wait_for(GlooOperation& operation, std::chrono::milliseconds timeout) {
  return operation.direction == Direction::kSend ? operation.buffer->waitSend(timeout)
                                                 : operation.buffer->waitRecv(timeout);
}

}  // namespace

GlooLink::GlooLink(std::shared_ptr<GlooDevice> device,
                   std::shared_ptr<gloo::transport::Context> mesh)
    : device_(std::move(device)),
      rank_(mesh->rank),
      world_size_(mesh->size),
      mesh_(std::move(mesh)),
      peer_failed_(world_size_) {
  if (world_size_ > 1) watcher_ = std::thread([this] { watch(); });
}

std::optional<Error> GlooLink::failure(int peer) const {
  if (dead_) return dead_;
  return peer_failed_[peer];
}

Error GlooLink::die(Error error) {
  const std::lock_guard lock(mutex_);
  if (!dead_) dead_ = std::move(error);
  return *dead_;
}

Status GlooLink::post(GlooOperation& operation, std::uint64_t tag, std::byte* data,
                      std::size_t bytes) {
  if (operation.peer < 0 || operation.peer >= world_size_ || operation.peer == rank_) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("no such peer in a world of {}", world_size_));
  }
  {
    const std::lock_guard lock(mutex_);
    if (const auto failed = failure(operation.peer)) {
      if (!dead_) dead_ = failed;
      return *failed;
    }
    operation.buffer = mesh_->createUnboundBuffer(data, bytes);
    in_flight_.push_back(&operation);
  }
  try {
    if (operation.direction == Direction::kSend) {
      operation.buffer->send(operation.peer, slot_of(tag, bytes), 0, bytes);
    } else {
      operation.buffer->recv(operation.peer, slot_of(tag, bytes), 0, bytes);
    }
    return {};
  } catch (const std::exception& e) {
    Error error = die(make_error(ErrorCode::kUnavailable, e.what()));
    release(operation);
    return error;
  }
}

Status GlooLink::wait(GlooOperation& operation, Duration timeout) {
  auto status = try_wait(operation, timeout);
  if (!status) return die(std::move(status).error());
  {
    const std::lock_guard lock(mutex_);
    std::erase(in_flight_, &operation);
  }
  operation.buffer.reset();
  return {};
}

Status GlooLink::try_wait(GlooOperation& operation, Duration timeout) {
  bool broken = false;
  {
    const std::lock_guard lock(mutex_);
    if (dead_) return *dead_;
    broken = peer_failed_[operation.peer].has_value();
    operation.waiting = true;
  }
  const auto start = std::chrono::steady_clock::now();
  std::string reason;
  try {
    // On a broken connection this only asks whether the bytes had moved before it broke.
    bool moved = wait_for(operation, broken ? to_gloo({}) : to_gloo(timeout));
    if (!moved && !broken) {
      {
        const std::lock_guard lock(mutex_);
        operation.waiting = false;
        if (dead_) return *dead_;
        broken = true;
      }
      moved = wait_for(operation, to_gloo({}));
    }
    if (moved) return {};
  } catch (const std::exception& e) {
    reason = e.what();
  }
  const std::lock_guard lock(mutex_);
  operation.waiting = false;
  if (dead_) return *dead_;
  if (broken) return *peer_failed_[operation.peer];
  if (std::chrono::steady_clock::now() - start >= timeout) {
    return make_error(ErrorCode::kTimeout,
                      fmt::format("no answer within {:.3f} s", to_seconds(timeout)));
  }
  return make_error(ErrorCode::kUnavailable, reason);
}

void GlooLink::release(GlooOperation& operation) {
  if (operation.buffer == nullptr) return;
  {
    const std::lock_guard lock(mutex_);
    std::erase(in_flight_, &operation);
    if (!dead_) dead_ = make_error(ErrorCode::kAborted, "a transfer was given up");
  }
  // The peer would wait for the rest of this message, and Gloo's thread would spin on it.
  close_connections();
  operation.buffer.reset();
}

void GlooLink::abort(std::string reason) {
  const std::lock_guard lock(mutex_);
  if (aborted_) return;
  aborted_ = true;
  dead_ = make_error(ErrorCode::kAborted, std::move(reason));
  for (const GlooOperation* operation : in_flight_) cancel_wait(*operation);
}

void GlooLink::close() {
  const GlooDevice::Hurry hurry(device_);
  bool reset = false;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
    closing_ = true;
    if (!dead_ && !in_flight_.empty()) {
      dead_ = make_error(ErrorCode::kAborted, "the communicator was destroyed");
    }
    reset = dead_.has_value();
    if (alarm_) alarm_->abortWaitRecv();
  }
  if (watcher_.joinable()) watcher_.join();
  if (reset) close_connections();
  alarm_.reset();
  const std::lock_guard lock(mutex_);
  mesh_.reset();
}

void GlooLink::close_connections() {
  std::shared_ptr<gloo::transport::Context> mesh;
  {
    const std::lock_guard lock(mutex_);
    mesh = mesh_;
  }
  if (mesh == nullptr) return;
  const GlooDevice::Hurry hurry(device_);
  close_mesh(*mesh);
}

void GlooLink::watch() {
  for (;;) {
    const std::shared_ptr<UnboundBuffer> alarm = mesh_->createUnboundBuffer(nullptr, 0);
    {
      const std::lock_guard lock(mutex_);
      if (closing_) return;
      alarm_ = alarm;
    }
    for (int peer = 0; peer < world_size_; ++peer) {
      if (peer == rank_ || peer_failed_[peer]) continue;
      try {
        alarm->recv(peer, kAlarmSlot, 0, 0);
      } catch (const std::exception& e) {
        mark_broken(peer, e.what());
      }
    }
    try {
      alarm->waitRecv(kForever);
    } catch (const std::exception&) {
      // Some connection broke; posting the next alarm finds out which.
    }
  }
}

void GlooLink::mark_broken(int peer, std::string reason) {
  const std::lock_guard lock(mutex_);
  peer_failed_[peer] = make_error(ErrorCode::kUnavailable, std::move(reason));
  for (const GlooOperation* operation : in_flight_) {
    if (operation->peer == peer && operation->waiting) cancel_wait(*operation);
  }
}

}  // namespace tenax::compute
