#include "actors/buddy_sender.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "checkpoint/slot.h"

namespace tenax::actors {

BuddySender::BuddySender(BuddySenderOptions options)
    : options_(std::move(options)),
      sockets_(options_.identity.keys,
               [this](int, const std::string&, std::span<const std::byte> frame) { on(frame); }),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

BuddySender::~BuddySender() { thread_.request_stop(); }

void BuddySender::copy(const CopyJob& job) {
  {
    MutexLock lock(mutex_);
    waiting_[job.id.slot] = job;
  }
  changed_.notify_all();
}

void BuddySender::run(const std::stop_token& stop) {
  const std::stop_callback wake(stop, [this] {
    MutexLock lock(mutex_);
    changed_.notify_all();
  });
  while (true) {
    CopyJob job;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stop.stop_requested()) changed_.wait(mutex_);
      if (stop.stop_requested()) return;
      job = waiting_.begin()->second;
      waiting_.erase(waiting_.begin());
    }
    const Status status = transfer(job, stop);
    if (!status) {
      // Whatever the buddy still has of it is not continued.
      sockets_.close(socket_);
      endpoint_.clear();
    }
    if (options_.on_done) options_.on_done(job, status);
  }
}

Status BuddySender::connect() {
  TENAX_TRY(std::string endpoint, options_.endpoint());
  if (endpoint == endpoint_) return {};
  if (!endpoint_.empty()) sockets_.close(socket_);
  endpoint_.clear();
  // A name of its own for each connection: a late answer to an old one reaches nobody.
  TENAX_TRY(socket_, sockets_.connect_dealer(
                         endpoint, fmt::format("copy-a{}.{}", options_.agent, last_transfer_)));
  endpoint_ = std::move(endpoint);
  return {};
}

void BuddySender::send(wire::BulkBody body) {
  sockets_.send(socket_, "",
                wire::encode(wire::BulkMessage{options_.identity.secret, std::move(body)}));
}

void BuddySender::on(std::span<const std::byte> frame) {
  const auto message = wire::decode_bulk(frame);
  if (!message || message->run_id != options_.identity.secret) return;
  {
    MutexLock lock(mutex_);
    if (const auto* credit = std::get_if<wire::BulkCredit>(&message->body)) {
      if (credit->transfer != current_) return;
      credits_ += credit->pieces;
    } else if (const auto* stored = std::get_if<wire::BulkStored>(&message->body)) {
      if (stored->transfer != current_) return;
      stored_ = stored->error;
    }
    ++heard_;
  }
  changed_.notify_all();
}

Status BuddySender::wait(std::uint64_t transfer, bool all_sent, const std::stop_token& stop) {
  MutexLock lock(mutex_);
  while (true) {
    if (stop.stop_requested()) return make_error(ErrorCode::kAborted, "the agent ends");
    if (stored_) {
      if (all_sent && stored_->empty()) return {};
      return make_error(ErrorCode::kUnavailable,
                        stored_->empty() ? "the buddy ended the copy early" : *stored_);
    }
    if (!all_sent && credits_ > 0) {
      --credits_;
      return {};
    }
    const std::uint64_t before = heard_;
    const auto deadline = std::chrono::steady_clock::now() + options_.timeout;
    while (heard_ == before && !stop.stop_requested()) {
      if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout && heard_ == before) {
        return make_error(ErrorCode::kTimeout,
                          fmt::format("transfer {}: the buddy has not answered for {:.1f} s",
                                      transfer, to_seconds(options_.timeout)));
      }
    }
  }
}

Status BuddySender::transfer(const CopyJob& job, const std::stop_token& stop) {
  const std::string prefix = checkpoint::slot_prefix(
      options_.identity.id, fmt::format("a{}", job.id.agent), static_cast<int>(job.id.slot));
  TENAX_TRY(const checkpoint::SlotReader slot,
            checkpoint::find_sealed_slot(prefix, job.id.branch, job.id.step));
  const std::uint64_t transfer = ++last_transfer_;
  TENAX_RETURN_IF_ERROR(connect());
  {
    MutexLock lock(mutex_);
    current_ = transfer;
    credits_ = 0;
    stored_.reset();
  }
  const auto payload = slot.payload();
  send(wire::BulkOffer{transfer, job.id, job.generation, job.incarnation, payload.size()});
  Hasher128 hasher;
  for (std::size_t at = 0; at < payload.size(); at += wire::kPieceBytes) {
    TENAX_RETURN_IF_ERROR(wait(transfer, false, stop));
    const auto piece = payload.subspan(at, std::min(wire::kPieceBytes, payload.size() - at));
    wire::BulkPiece out{transfer, at,
                        std::string(reinterpret_cast<const char*>(piece.data()), piece.size())};
    if (!slot.still_sealed()) {
      return make_error(ErrorCode::kUnavailable, "the slot was reused while it was being copied");
    }
    hasher.update(out.bytes);
    send(std::move(out));
  }
  send(wire::BulkSeal{transfer, hasher.digest()});
  return wait(transfer, true, stop);
}

}  // namespace tenax::actors
