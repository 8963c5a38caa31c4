// Tells within milliseconds when a watched process ends: one thread polls all pidfds. Thread safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "actors/process.h"

namespace tenax::actors {

class ProcessWatcher {
 public:
  /// Called once a process on the watcher's thread, after the process was reaped.
  using OnExit = std::function<void(std::uint64_t token, pid_t pid, std::string status)>;

  explicit ProcessWatcher(OnExit on_exit);
  ~ProcessWatcher();
  ProcessWatcher(const ProcessWatcher&) = delete;
  ProcessWatcher& operator=(const ProcessWatcher&) = delete;

  /// Takes the process over; `token` names it in on_exit and signal().
  void watch(std::uint64_t token, Process process);
  /// Signals a watched process; nothing happens if it has ended.
  void signal(std::uint64_t token, int number);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenax::actors
