#include "actors/generation_link.h"

#include <fmt/format.h>

#include <chrono>

namespace tenax::actors {

void GenerationLink::deliver(const std::string& key, std::string value) {
  {
    MutexLock lock(mutex_);
    values_.insert_or_assign(key, std::move(value));
  }
  changed_.notify_all();
}

void GenerationLink::command(const WorkerCommand& command) {
  MutexLock lock(mutex_);
  commands_[command.number] = command.kind;
}

void GenerationLink::abort(const std::string& reason) {
  {
    MutexLock lock(mutex_);
    if (reason_.empty()) reason_ = reason;
  }
  stop_.request_stop();
  changed_.notify_all();
}

Status GenerationLink::publish(const std::string& key, std::string value) {
  if (aborted()) return make_error(ErrorCode::kAborted, reason());
  publish_(key, std::move(value));
  return {};
}

Result<std::string> GenerationLink::wait(const std::string& key) {
  return wait(key, std::chrono::minutes(10));
}

Result<std::string> GenerationLink::wait(const std::string& key, Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  while (true) {
    if (stop_.stop_requested()) return make_error(ErrorCode::kAborted, reason_);
    if (const auto it = values_.find(key); it != values_.end()) return it->second;
    if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout) {
      return make_error(ErrorCode::kTimeout, fmt::format("nobody published {}", key));
    }
  }
}

std::string GenerationLink::reason() const {
  MutexLock lock(mutex_);
  return reason_;
}

std::int64_t GenerationLink::newest_command() const {
  MutexLock lock(mutex_);
  std::int64_t newest = 0;
  while (commands_.contains(newest + 1)) ++newest;
  return newest;
}

WorkerCommandKind GenerationLink::command_kind(std::int64_t number) const {
  MutexLock lock(mutex_);
  return commands_.at(number);
}

void SlotGate::sealed(std::uint64_t branch, std::int64_t step, int index) {
  MutexLock lock(mutex_);
  in_flight_ = InFlight{branch, step, index};
}

void SlotGate::closed(std::uint64_t branch, std::int64_t step, bool committed) {
  {
    MutexLock lock(mutex_);
    for (std::optional<InFlight>* flight : {&in_flight_, &abandoned_}) {
      if (!*flight || (*flight)->branch != branch || (*flight)->step != step) continue;
      if (committed) committed_index_ = (*flight)->index;
      flight->reset();
    }
  }
  changed_.notify_all();
}

void SlotGate::reset() {
  {
    MutexLock lock(mutex_);
    if (in_flight_) abandoned_ = in_flight_;
    in_flight_.reset();
  }
  changed_.notify_all();
}

bool SlotGate::free() const {
  MutexLock lock(mutex_);
  return !in_flight_.has_value();
}

int SlotGate::next_index() const {
  MutexLock lock(mutex_);
  return committed_index_ == 0 ? 1 : 0;
}

bool SlotGate::wait_free(const std::stop_token& stop) const {
  MutexLock lock(mutex_);
  while (in_flight_ && !stop.stop_requested()) {
    changed_.wait_for(mutex_, std::chrono::milliseconds(20));
  }
  return !in_flight_.has_value();
}

}  // namespace tenax::actors
