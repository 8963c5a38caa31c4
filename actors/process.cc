#include "actors/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "common/read_all.h"

extern char** environ;

namespace tenax::actors {

namespace {
int pidfd_open(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }
}  // namespace

Process::~Process() {
  if (pidfd_ >= 0) ::close(pidfd_);
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::exchange(other.pidfd_, -1)) {}

Process& Process::operator=(Process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pidfd_, other.pidfd_);
  return *this;
}

Result<Process> Process::spawn(const SpawnOptions& options) {
  std::vector<char*> argv;
  for (const std::string& a : options.arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&files);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, options.log_path.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  // Sockets and locks of this process must not outlive it in a child.
  posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
  sigset_t none;
  sigemptyset(&none);
  sigset_t defaults;
  sigfillset(&defaults);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    return make_error(ErrorCode::kIo, fmt::format("start {} (log {}): {}", options.arguments[0],
                                                  options.log_path, std::strerror(error)));
  }
  // The child is not reaped by anyone else, so the pid cannot have been recycled yet.
  return Process(pid, pidfd_open(pid));
}

Result<Process> Process::attach(pid_t pid) {
  const int fd = pidfd_open(pid);
  if (fd < 0) {
    return make_error(ErrorCode::kNotFound,
                      fmt::format("process {}: {}", pid, std::strerror(errno)));
  }
  return Process(pid, fd);
}

void Process::signal(int number) const {
  if (pidfd_ >= 0) syscall(SYS_pidfd_send_signal, pidfd_, number, nullptr, 0);
}

std::string reap(const Process& process) {
  siginfo_t info{};
  while (waitid(P_PIDFD, static_cast<id_t>(process.pidfd()), &info, WEXITED) != 0) {
    if (errno != EINTR) return "gone";
  }
  if (info.si_code == CLD_EXITED) return fmt::format("exited with code {}", info.si_status);
  return fmt::format("killed by signal {} ({})", info.si_status, strsignal(info.si_status));
}

std::string self_path() {
  char buffer[4096];
  const ssize_t n = readlink("/proc/self/exe", buffer, sizeof buffer);
  return n > 0 ? std::string(buffer, static_cast<std::size_t>(n)) : std::string("tenax");
}

bool is_alive(pid_t pid, const std::string& word) {
  if (pid <= 0) return false;
  std::ifstream stat_file(fmt::format("/proc/{}/stat", pid));
  const std::string stat = read_all(stat_file);
  const auto close = stat.rfind(')');
  if (close == std::string::npos || close + 2 >= stat.size()) return false;
  if (stat[close + 2] == 'Z' || stat[close + 2] == 'X') return false;
  std::ifstream cmdline(fmt::format("/proc/{}/cmdline", pid));
  const std::string command = read_all(cmdline);
  return command.find(word) != std::string::npos;
}

bool die_with_parent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  return getppid() == parent;
}

}  // namespace tenax::actors
