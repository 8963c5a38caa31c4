#include "actors/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

#include "actors/process_watcher.h"
#include "actors/run_directory.h"

namespace tenax::actors {
namespace {

class Processes : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("tenax_process_test." + std::to_string(getpid()) + "." +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Process shell(const std::string& script) {
    auto p = Process::spawn({{"/bin/sh", "-c", script}, log()});
    EXPECT_TRUE(p) << p.error().message;
    return *std::move(p);
  }
  std::string log() const { return (folder_ / "log").string(); }

  std::filesystem::path folder_;
};

TEST_F(Processes, TellHowTheyEnded) {
  EXPECT_EQ(reap(shell("exit 3")), "exited with code 3");
  const Process sleeper = shell("exec sleep 1000");
  sleeper.signal(SIGKILL);
  EXPECT_EQ(reap(sleeper), "killed by signal 9 (Killed)");
  EXPECT_EQ(reap(sleeper), "gone");
  sleeper.signal(SIGKILL);  // nobody there: nothing happens
}

TEST_F(Processes, AppendBothOutputsToTheirLog) {
  static_cast<void>(reap(shell("echo one; echo two >&2")));
  static_cast<void>(reap(shell("echo three")));
  EXPECT_EQ(read_file(log()).value(), "one\ntwo\nthree\n");
}

TEST_F(Processes, HaveNoFilesOfTheirParentAndAGroupOfTheirOwn) {
  const int fd = ::dup(STDOUT_FILENO);  // inheritable
  ASSERT_GT(fd, 2);
  const std::string file = "/proc/self/fd/" + std::to_string(fd);
  EXPECT_EQ(reap(shell("test ! -e " + file)), "exited with code 0");
  ::close(fd);
  const Process p = shell("exec sleep 1000");
  EXPECT_EQ(getpgid(p.pid()), p.pid());
  p.signal(SIGKILL);
  static_cast<void>(reap(p));
}

TEST_F(Processes, AProgramThatIsNotThereIsAnError) {
  const auto p = Process::spawn({{"/nonexistent/program"}, log()});
  ASSERT_FALSE(p);
  EXPECT_EQ(p.error().code, ErrorCode::kIo);
  EXPECT_NE(p.error().message.find("/nonexistent/program"), std::string::npos);
}

TEST_F(Processes, AreAliveOnlyIfTheirCommandLineHasTheWord) {
  const Process p = shell("exec sleep 1234.5");
  while (!is_alive(p.pid(), "1234.5")) {
  }
  EXPECT_FALSE(is_alive(p.pid(), "another word"));
  EXPECT_FALSE(is_alive(0, ""));
  p.signal(SIGKILL);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(p.pid()), &info, WEXITED | WNOWAIT);
  EXPECT_FALSE(is_alive(p.pid(), "")) << "a zombie is dead";
  static_cast<void>(reap(p));
}

TEST_F(Processes, AttachFindsALiveProcessAndNotADeadOne) {
  const Process p = shell("exec sleep 1000");
  auto again = Process::attach(p.pid());
  ASSERT_TRUE(again);
  again->signal(SIGKILL);
  EXPECT_EQ(reap(p), "killed by signal 9 (Killed)");
  const auto gone = Process::attach(p.pid());
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, ErrorCode::kNotFound);
}

TEST_F(Processes, AWatcherTellsEachEndOnceUnderItsToken) {
  std::mutex mutex;
  std::condition_variable changed;
  std::multimap<std::uint64_t, std::string> ended;
  ProcessWatcher watcher([&](std::uint64_t token, pid_t, std::string status) {
    const std::scoped_lock lock(mutex);
    ended.emplace(token, std::move(status));
    changed.notify_all();
  });
  watcher.watch(1, shell("exit 1"));
  watcher.watch(2, shell("exec sleep 1000"));
  watcher.watch(3, shell("exec sleep 1000"));
  watcher.signal(2, SIGKILL);
  watcher.signal(99, SIGKILL);
  std::unique_lock lock(mutex);
  ASSERT_TRUE(changed.wait_for(lock, std::chrono::minutes(1), [&] { return ended.size() == 2; }));
  EXPECT_EQ(ended.find(1)->second, "exited with code 1");
  EXPECT_EQ(ended.find(2)->second, "killed by signal 9 (Killed)");
  lock.unlock();
  watcher.signal(3, SIGTERM);
  lock.lock();
  ASSERT_TRUE(changed.wait_for(lock, std::chrono::minutes(1), [&] { return ended.size() == 3; }));
  EXPECT_EQ(ended.find(3)->second, "killed by signal 15 (Terminated)");
}

TEST_F(Processes, ARunDirectoryKeepsItsIdentityAndItsAddressIsPrivate) {
  const RunDirectory directory(folder_ / "run");
  EXPECT_FALSE(directory.exists());
  EXPECT_EQ(directory.identity().error().code, ErrorCode::kNotFound);
  const auto made = directory.create("name \"quoted\"");
  ASSERT_TRUE(made) << made.error().message;
  const auto again = directory.create("other");
  ASSERT_TRUE(again);
  EXPECT_EQ(again->id, made->id);
  EXPECT_EQ(again->secret, made->secret);
  EXPECT_EQ(directory.identity()->name, "name \"quoted\"");
  EXPECT_EQ(directory.identity()->arithmetic, "");
  RunIdentity renamed = *made;
  renamed.arithmetic = "fp32 products";
  ASSERT_TRUE(directory.write_identity(renamed));
  EXPECT_EQ(directory.identity()->arithmetic, "fp32 products");
  EXPECT_EQ(directory.identity()->secret, made->secret);
  EXPECT_FALSE(directory.read_address());
  ASSERT_TRUE(directory.write_address({"tcp://127.0.0.1:1", "http://x", "token", 42, 7, "host"}));
  const auto address = directory.read_address();
  ASSERT_TRUE(address) << address.error().message;
  EXPECT_EQ(address->endpoint, "tcp://127.0.0.1:1");
  EXPECT_EQ(address->control_token, "token");
  EXPECT_EQ(address->pid, 42);
  EXPECT_EQ(address->term, 7u);
  using std::filesystem::perms;
  for (const char* file : {"run.json", "supervisor.json"}) {
    const auto mode = std::filesystem::status(directory.path() / file).permissions();
    EXPECT_EQ(mode & (perms::group_all | perms::others_all), perms::none) << file;
  }
  std::ofstream(directory.path() / "supervisor.json") << "{";
  EXPECT_FALSE(directory.read_address());
}

}  // namespace
}  // namespace tenax::actors
