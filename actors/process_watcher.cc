#include "actors/process_watcher.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "common/annotations.h"
#include "common/check.h"

namespace tenax::actors {

struct ProcessWatcher::Impl {
  explicit Impl(OnExit f) : on_exit(std::move(f)), wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    TENAX_CHECK(wake >= 0);
    thread = std::thread([this] { run(); });
  }
  ~Impl() {
    {
      MutexLock lock(mutex);
      stopping = true;
    }
    kick();
    thread.join();
    ::close(wake);
  }
  void kick() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto n = ::write(wake, &one, sizeof one);
  }

  void run() {
    while (true) {
      std::vector<pollfd> fds{{wake, POLLIN, 0}};
      std::vector<std::uint64_t> tokens;
      {
        MutexLock lock(mutex);
        if (stopping) return;
        for (const auto& [token, process] : processes) {
          fds.push_back({process.pidfd(), POLLIN, 0});
          tokens.push_back(token);
        }
      }
      ::poll(fds.data(), fds.size(), -1);
      std::uint64_t count = 0;
      [[maybe_unused]] const auto n = ::read(wake, &count, sizeof count);
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (fds[i + 1].revents == 0) continue;
        Process ended;
        {
          MutexLock lock(mutex);
          ended = std::move(processes[tokens[i]]);
          processes.erase(tokens[i]);
        }
        const pid_t pid = ended.pid();
        on_exit(tokens[i], pid, reap(ended));
      }
    }
  }

  OnExit on_exit;
  int wake;
  Mutex mutex;
  std::map<std::uint64_t, Process> processes TENAX_GUARDED_BY(mutex);
  bool stopping TENAX_GUARDED_BY(mutex) = false;
  std::thread thread;
};

ProcessWatcher::ProcessWatcher(OnExit on_exit)
    : impl_(std::make_unique<Impl>(std::move(on_exit))) {}
ProcessWatcher::~ProcessWatcher() = default;

void ProcessWatcher::watch(std::uint64_t token, Process process) {
  {
    MutexLock lock(impl_->mutex);
    impl_->processes[token] = std::move(process);
  }
  impl_->kick();
}

void ProcessWatcher::signal(std::uint64_t token, int number) {
  MutexLock lock(impl_->mutex);
  const auto it = impl_->processes.find(token);
  if (it != impl_->processes.end()) it->second.signal(number);
}

}  // namespace tenax::actors
