#include "tests/support/child_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <ostream>
#include <thread>

#include "common/read_all.h"

extern char** environ;

namespace tenax::testing {

double time_scale() {
  if (const char* text = ::getenv("TENAX_TIME_SCALE")) {
    if (const double scale = std::strtod(text, nullptr); scale > 0) return scale;
  }
  return TENAX_TEST_TIME_SCALE;
}

Milliseconds scaled(Milliseconds d) {
  return Milliseconds(std::llround(static_cast<double>(d.count()) * time_scale()));
}

void sleep_for(Milliseconds d) { std::this_thread::sleep_for(d); }

std::ostream& operator<<(std::ostream& out, const Ended& ended) {
  if (ended.signal != 0) return out << "killed by signal " << ended.signal;
  return out << "exit code " << ended.exit_code;
}

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, std::filesystem::path output,
                           const std::filesystem::path& folder)
    : output_(std::move(output)) {
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addchdir_np(&files, folder.c_str());
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, output_.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  const int error = posix_spawn(&pid_, argv[0], &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    ADD_FAILURE() << "start " << arguments[0] << ": " << std::generic_category().message(error);
    pid_ = -1;
    ended_ = Ended{};
  }
}

ChildProcess::~ChildProcess() {
  if (ended()) return;
  signal(SIGKILL);
  wait(std::chrono::seconds(30));
}

void ChildProcess::signal(int number) const {
  if (!ended_) ::kill(pid_, number);
}

std::optional<Ended> ChildProcess::ended() {
  if (ended_) return ended_;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  ended_ = WIFEXITED(status) ? Ended{WEXITSTATUS(status), 0} : Ended{-1, WTERMSIG(status)};
  return ended_;
}

std::optional<Ended> ChildProcess::wait(Milliseconds timeout) {
  eventually(timeout, [this] { return ended().has_value(); });
  return ended();
}

std::string ChildProcess::output() const {
  std::ifstream in(output_, std::ios::binary);
  return read_all(in);
}

CommandResult run_command(const std::vector<std::string>& arguments,
                          const std::filesystem::path& folder, Milliseconds timeout) {
  static std::atomic<int> number{0};
  const std::filesystem::path output = folder / ("command-" + std::to_string(++number) + ".out");
  ChildProcess child(arguments, output, folder);
  const auto ended = child.wait(timeout);
  if (!ended) {
    ADD_FAILURE() << "no end within the deadline: " << arguments[0] << " " << arguments[1];
    child.signal(SIGKILL);
  }
  CommandResult result{ended.value_or(Ended{-1, SIGKILL}), child.output()};
  std::filesystem::remove(output);
  return result;
}

}  // namespace tenax::testing
