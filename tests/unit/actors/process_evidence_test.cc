#include "actors/process_evidence.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>

#include "actors/process.h"

namespace tenax::actors {
namespace {

namespace fs = std::filesystem;

fs::path scratch(const std::string& name) {
  return fs::temp_directory_path() / (name + std::to_string(getpid()));
}

TEST(ProcessEvidence, HasALineForEachThread) {
  std::jthread other([](const std::stop_token& stop) {
    while (!stop.stop_requested()) usleep(1000);
  });
  const std::string states = thread_states(getpid());
  EXPECT_NE(states.find("thread " + std::to_string(getpid()) + " "), std::string::npos) << states;
  EXPECT_GE(std::count(states.begin(), states.end(), '\n'), 2) << states;
}

TEST(ProcessEvidence, SaysThatAProcessIsStopped) {
  auto child = Process::spawn({{"/bin/sleep", "60"}, "/dev/null"});
  ASSERT_TRUE(child) << child.error().message;
  child->signal(SIGSTOP);
  waitpid(child->pid(), nullptr, WUNTRACED);
  EXPECT_NE(thread_states(child->pid()).find("T (stopped)"), std::string::npos);
  child->signal(SIGKILL);
  waitpid(child->pid(), nullptr, 0);
  EXPECT_EQ(thread_states(child->pid()), "");
}

TEST(ProcessEvidence, ThreadsWriteTheirStacksWhenAsked) {
  write_stacks_when_asked();
  testing::internal::CaptureStderr();
  ask_for_stacks(getpid());
  const std::string written = testing::internal::GetCapturedStderr();
  EXPECT_NE(written.find("stack of a thread, innermost first:"), std::string::npos) << written;
  EXPECT_GE(std::count(written.begin(), written.end(), '\n'), 3) << written;
}

TEST(ProcessEvidence, TheTailOfALogIsWholeLines) {
  const fs::path log = scratch("tail");
  std::ofstream(log) << "first line\nsecond line\nthird line\n";
  EXPECT_EQ(tail_of(log, 1000), "first line\nsecond line\nthird line\n");
  EXPECT_EQ(tail_of(log, 15), "third line\n");
  append_to(log, "fourth\n");
  EXPECT_EQ(tail_of(log, 10), "fourth\n");
  fs::remove(log);
  EXPECT_EQ(tail_of(log, 10), "");
}

}  // namespace
}  // namespace tenax::actors
