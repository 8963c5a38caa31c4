#include "actors/process_evidence.h"

#include <execinfo.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <vector>

namespace tenax::actors {

namespace {

namespace fs = std::filesystem;

constexpr int kMaxFrames = 64;

int stack_signal() { return SIGRTMIN + 3; }

void write_stack(int) {
  void* frames[kMaxFrames];
  const int count = backtrace(frames, kMaxFrames);
  constexpr char kHead[] = "stack of a thread, innermost first:\n";
  static_cast<void>(!::write(STDERR_FILENO, kHead, sizeof kHead - 1));
  backtrace_symbols_fd(frames, count, STDERR_FILENO);
}

std::string first_line(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::vector<pid_t> threads_of(pid_t pid) {
  std::vector<pid_t> threads;
  std::error_code ec;
  for (fs::directory_iterator it(fmt::format("/proc/{}/task", pid), ec), end; !ec && it != end;
       it.increment(ec)) {
    const std::string name = it->path().filename();
    pid_t thread = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), thread).ec == std::errc())
      threads.push_back(thread);
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

}  // namespace

std::string thread_states(pid_t pid) {
  std::string text;
  for (const pid_t thread : threads_of(pid)) {
    const fs::path folder = fmt::format("/proc/{}/task/{}", pid, thread);
    std::ifstream status(folder / "status");
    std::string state = "?";
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("State:")) state = line.substr(line.find_first_not_of(" \t", 6));
    }
    const std::string call = first_line(folder / "syscall");
    text += fmt::format("thread {} {}: {}, in {}, system call {}\n", thread,
                        first_line(folder / "comm"), state, first_line(folder / "wchan"),
                        call.empty() ? "?" : call.substr(0, call.find(' ')));
  }
  return text;
}

void write_stacks_when_asked() {
  void* frame = nullptr;
  backtrace(&frame, 1);
  struct sigaction action = {};
  action.sa_handler = write_stack;
  action.sa_flags = SA_RESTART;
  sigaction(stack_signal(), &action, nullptr);
}

void ask_for_stacks(pid_t pid) {
  for (const pid_t thread : threads_of(pid)) syscall(SYS_tgkill, pid, thread, stack_signal());
}

std::string tail_of(const fs::path& file, std::size_t bytes) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return {};
  const auto size = static_cast<std::size_t>(std::max<std::streamoff>(0, in.tellg()));
  const std::size_t begin = size > bytes ? size - bytes : 0;
  in.seekg(static_cast<std::streamoff>(begin));
  std::string text(size - begin, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  if (begin > 0) text.erase(0, text.find('\n') == std::string::npos ? 0 : text.find('\n') + 1);
  return text;
}

void append_to(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary | std::ios::app) << text;
}

}  // namespace tenax::actors
