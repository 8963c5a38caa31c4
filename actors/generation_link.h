// What a worker's actor and its engine thread share during one generation: the abort, the numbered
// commands, the other ranks' addresses and the state of the slots. The actor writes, the engine
// reads or waits. Guarded by one mutex.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "common/annotations.h"
#include "common/run_types.h"
#include "compute/communicator.h"

namespace tenax::actors {

class GenerationLink final : public compute::Rendezvous {
 public:
  using Publish = std::function<void(const std::string& key, std::string value)>;

  GenerationLink(std::uint64_t generation, Publish publish)
      : generation_(generation), publish_(std::move(publish)) {}

  std::uint64_t generation() const { return generation_; }

  // Called by the actor.
  void deliver(const std::string& key, std::string value);
  void command(const WorkerCommand& command);
  /// Ends every wait and, through stop_token(), the communicator.
  void abort(const std::string& reason);

  // Called by the engine.
  Status publish(const std::string& key, std::string value) override;
  Result<std::string> wait(const std::string& key) override;
  Result<std::string> wait(const std::string& key, Duration timeout) override;
  std::stop_token stop_token() const { return stop_.get_token(); }
  bool aborted() const { return stop_.stop_requested(); }
  std::string reason() const;
  /// All commands up to this number have come, without gaps.
  std::int64_t newest_command() const;
  WorkerCommandKind command_kind(std::int64_t number) const;

 private:
  const std::uint64_t generation_;
  const Publish publish_;
  std::stop_source stop_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::map<std::string, std::string> values_ TENAX_GUARDED_BY(mutex_);
  std::map<std::int64_t, WorkerCommandKind> commands_ TENAX_GUARDED_BY(mutex_);
  std::string reason_ TENAX_GUARDED_BY(mutex_);
};

/// Which of a worker's slots is being written out; outlives generations. Thread safe.
class SlotGate {
 public:
  /// A snapshot of (branch, step) was sealed and is being written out.
  void sealed(std::uint64_t branch, std::int64_t step, int index);
  /// The supervisor is done with it: committed, or given up.
  void closed(std::uint64_t branch, std::int64_t step, bool committed);
  /// Forgets what was in flight: after an abort it will not be committed.
  void reset();

  bool free() const;
  /// The slot to write next: never the one that holds the newest committed snapshot.
  int next_index() const;
  /// Waits until free(); false if `stop` came first.
  bool wait_free(const std::stop_token& stop) const;

 private:
  struct InFlight {
    std::uint64_t branch = 0;
    std::int64_t step = 0;
    int index = 0;
  };
  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::optional<InFlight> in_flight_ TENAX_GUARDED_BY(mutex_);
  std::optional<InFlight> abandoned_
      TENAX_GUARDED_BY(mutex_);  ///< by reset(); may yet be committed
  int committed_index_ TENAX_GUARDED_BY(mutex_) = -1;
};

}  // namespace tenax::actors
