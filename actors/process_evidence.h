// What can be learned of a process before it is killed for hanging, and of one that has died: the
// state of its threads, their stacks, the end of its log.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <string>

namespace tenax::actors {

/// A line for each thread of `pid`: name, state, the kernel function and system call that it waits
/// in, as far as /proc tells. Empty if the process is gone.
std::string thread_states(pid_t pid);

/// From now on each thread of this process writes its stack to standard error when
/// ask_for_stacks() asks. The handler only calls what may be called in one, after a first
/// backtrace here has loaded what it needs.
void write_stacks_when_asked();
/// Asks every thread of `pid` for its stack; a stopped process does not answer.
void ask_for_stacks(pid_t pid);

/// The last whole lines of a file within `bytes`; empty if it cannot be read.
std::string tail_of(const std::filesystem::path& file, std::size_t bytes);
/// Appends to a log; errors are ignored.
void append_to(const std::filesystem::path& file, const std::string& text);

}  // namespace tenax::actors
