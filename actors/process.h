// Child processes: started with posix_spawn (never fork: RocksDB and thread pools do not survive
// it), watched and killed through a pidfd, so that a recycled pid is never signalled.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "common/result.h"

namespace tenax::actors {

/// A started process and the descriptor that stands for it. Moves, does not copy; closing the
/// descriptor does not end the process.
class Process {
 public:
  Process() = default;
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;

  struct SpawnOptions {
    std::vector<std::string> arguments;  ///< arguments[0] is the path of the program
    std::string log_path;                ///< stdout and stderr are appended here
  };
  /// In a process group of its own, so that Ctrl-C at the terminal reaches only the supervisor. kIo
  /// with errno's text.
  static Result<Process> spawn(const SpawnOptions& options);
  /// A process started by somebody else, for example by an earlier supervisor. kNotFound if it is
  /// gone.
  static Result<Process> attach(pid_t pid);

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_; }
  /// Sends a signal; nothing happens if the process has ended.
  void signal(int number) const;

 private:
  Process(pid_t pid, int pidfd) : pid_(pid), pidfd_(pidfd) {}
  pid_t pid_ = -1;
  int pidfd_ = -1;
};

/// Reaps an ended child and says how it ended: "killed by signal 9 (Killed)", "exited with code 3".
/// For a process that is no child of ours: "gone".
std::string reap(const Process& process);

/// The path of this program, for starting agents and workers.
std::string self_path();

/// True while `pid` is alive (not a zombie) and its command line contains `word`.
bool is_alive(pid_t pid, const std::string& word);

/// Ends this process by SIGKILL when `parent` ends. Returns false if the parent is gone already.
bool die_with_parent(pid_t parent);

}  // namespace tenax::actors
