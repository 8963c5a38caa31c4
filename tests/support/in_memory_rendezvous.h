// Rendezvous between threads of one process. Guarded.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "common/annotations.h"
#include "compute/communicator.h"

namespace tenax::test {

class InMemoryRendezvous final : public compute::Rendezvous {
 public:
  Status publish(const std::string& key, std::string value) override {
    MutexLock lock(mutex_);
    values_[key] = std::move(value);
    changed_.notify_all();
    return {};
  }

  Result<std::string> wait(const std::string& key) override {
    return wait(key, std::chrono::minutes(1));
  }

  Result<std::string> wait(const std::string& key, Duration timeout) override {
    MutexLock lock(mutex_);
    const auto found = [&] { return ended_ || values_.contains(key); };
    if (!changed_.wait_for(mutex_, timeout, found)) {
      return make_error(ErrorCode::kTimeout, key + " was not published");
    }
    if (ended_) return make_error(ErrorCode::kAborted, "the generation ended");
    return values_[key];
  }

  /// Every wait() returns kAborted from now on.
  void end() {
    MutexLock lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, std::string> values_ TENAX_GUARDED_BY(mutex_);
  bool ended_ TENAX_GUARDED_BY(mutex_) = false;
};

}  // namespace tenax::test
