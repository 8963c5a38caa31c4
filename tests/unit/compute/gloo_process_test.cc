// Ranks as real processes: the test's own program is started again for each of them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "common/hash.h"
#include "compute/cpu/gloo_communicator.h"
#include "compute/tree_reduce.h"
#include "tests/support/thread_world.h"
#include "tests/support/whole_reduction.h"

extern char** environ;

namespace tenax::compute {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr const char* kRankMode = "TENAX_TEST_GLOO_RANK";
constexpr std::size_t kElements = 300'000;
constexpr int kMicrobatches = 6;

/// One file a key.
class FileRendezvous final : public Rendezvous {
 public:
  explicit FileRendezvous(fs::path folder) : folder_(std::move(folder)) {}

  Status publish(const std::string& key, std::string value) override {
    const fs::path temporary = folder_ / (file_of(key) + ".tmp" + std::to_string(getpid()));
    std::ofstream(temporary) << value;
    fs::rename(temporary, folder_ / file_of(key));
    return {};
  }

  Result<std::string> wait(const std::string& key) override { return wait(key, 60s); }

  Result<std::string> wait(const std::string& key, Duration timeout) override {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (!fs::exists(folder_ / file_of(key))) {
      if (std::chrono::steady_clock::now() >= deadline) {
        return make_error(ErrorCode::kTimeout, key + " was not published");
      }
      std::this_thread::sleep_for(1ms);
    }
    std::ifstream file(folder_ / file_of(key));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

 private:
  static std::string file_of(std::string key) {
    std::ranges::replace(key, '/', '_');
    return key;
  }

  fs::path folder_;
};

float gradient(int microbatch, std::size_t element) {
  return 1.0f / static_cast<float>(3 + microbatch * 17 + element % 1009);
}

/// A rank's life, steered by lines on standard input: "form GENERATION RANK SIZE" makes it form and
/// reduce in a loop, "abort" ends the loop from another thread, "quit" the process. Answers
/// "formed", "step DIGEST" and "failed CODE".
int rank_main(const fs::path& folder) {
  signal(SIGPIPE, SIG_IGN);
  const auto device = GlooDevice::open("127.0.0.1").value();
  const auto rendezvous = std::make_shared<FileRendezvous>(folder);
  std::thread engine;
  std::stop_source stop;
  std::string line;
  const auto say = [](const std::string& text) { std::cout << text + "\n" << std::flush; };
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "quit") break;
    stop.request_stop();
    if (engine.joinable()) engine.join();
    if (word == "abort") {
      say("aborted");
      continue;
    }
    std::string generation;
    int rank = 0;
    int size = 0;
    words >> generation >> rank >> size;
    stop = std::stop_source();
    engine = std::thread([=, &say, token = stop.get_token()] {
      auto comm = GlooCommunicator::create(device, test::gloo_options(rank, size, generation),
                                           rendezvous, token);
      if (!comm) return say("failed " + comm.error().message);
      say("formed");
      std::vector<MicrobatchRange> ranges;
      for (int i = 0; i < size; ++i) {
        ranges.push_back({kMicrobatches * i / size, kMicrobatches * (i + 1) / size});
      }
      auto reducer =
          TreeReducer::create({.ranges = ranges, .num_microbatches = kMicrobatches, .index = rank});
      const auto ranks = test::all_ranks(size);
      const auto parts = even_parts(kElements, size, 16);
      TreeAccumulator accumulator(kElements, ranges[rank]);
      std::vector<float> out(kElements);
      for (;;) {
        accumulator.restart();
        for (int m = ranges[rank].begin; m < ranges[rank].end; ++m) {
          const auto buffer = accumulator.next();
          for (std::size_t k = 0; k < kElements; ++k) buffer[k] = gradient(m, k);
          accumulator.commit();
        }
        const auto status =
            test::reduce_whole(*reducer, **comm, {ranks, rank}, 1, accumulator, parts, out, true);
        if (!status) return say("failed " + std::string(to_string(status.error().code)));
        say("step " + hash128(std::as_bytes(std::span(out))).hex());
      }
    });
  }
  stop.request_stop();
  if (engine.joinable()) engine.join();
  return 0;
}

/// Runs before main(), so that a started rank never becomes a test run.
[[maybe_unused]] const bool is_rank = [] {
  if (const char* folder = std::getenv(kRankMode)) std::exit(rank_main(folder));
  return false;
}();

class RankProcess {
 public:
  explicit RankProcess(const fs::path& folder) {
    int in[2];
    int out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    const std::string program = fs::read_symlink("/proc/self/exe");
    char* const arguments[] = {const_cast<char*>(program.c_str()), nullptr};
    setenv(kRankMode, folder.c_str(), 1);
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ), 0);
    unsetenv(kRankMode);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    input_ = in[1];
    output_ = out[0];
  }

  ~RankProcess() {
    close(input_);
    close(output_);
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }

  RankProcess(const RankProcess&) = delete;

  void tell(const std::string& line) {
    const std::string text = line + "\n";
    EXPECT_EQ(write(input_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  /// Reads lines until one begins with `word`; empty if none comes within a minute or the process
  /// ends.
  std::string expect(const std::string& word) {
    for (;;) {
      const auto newline = buffer_.find('\n');
      if (newline != std::string::npos) {
        const std::string line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        if (line.starts_with(word)) return line;
        continue;
      }
      pollfd ready{output_, POLLIN, 0};
      char bytes[4096];
      ssize_t count = 0;
      if (poll(&ready, 1, 60'000) != 1 || (count = read(output_, bytes, sizeof(bytes))) <= 0) {
        ADD_FAILURE() << "no line '" << word << "' from process " << pid_;
        return "";
      }
      buffer_.append(bytes, count);
    }
  }

  void signal_with(int number) { kill(pid_, number); }

 private:
  pid_t pid_ = 0;
  int input_ = -1;
  int output_ = -1;
  std::string buffer_;
};

class GlooProcesses : public ::testing::Test {
 protected:
  void SetUp() override {
    test::loopback_device();  // ignores SIGPIPE: this process writes to pipes of killed ones
    folder_ = fs::temp_directory_path() / ("tenax_gloo_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    for (int i = 0; i < 4; ++i) ranks_.push_back(std::make_unique<RankProcess>(folder_));
  }

  void TearDown() override {
    ranks_.clear();
    fs::remove_all(folder_);
  }

  void form(const std::string& generation) {
    const std::string size = std::to_string(ranks_.size());
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      ranks_[i]->tell("form " + generation + " " + std::to_string(i) + " " + size);
    }
    for (auto& rank : ranks_) rank->expect("formed");
  }

  /// The digest of a reduction, the same on every rank.
  std::string step() {
    const std::string digest = ranks_[0]->expect("step");
    for (auto& rank : ranks_) EXPECT_EQ(rank->expect("step"), digest);
    return digest;
  }

  fs::path folder_;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
};

TEST_F(GlooProcesses, SurvivorsOfAKilledRankFormAgainAndGetTheSameBits) {
  form("1");
  const std::string digest = step();
  ranks_[2]->signal_with(SIGKILL);
  // The survivors find out by themselves, in the collective that they are in.
  for (const int i : {0, 1, 3}) ranks_[i]->expect("failed");
  for (const int i : {0, 1, 3}) ranks_[i]->tell("abort");
  for (const int i : {0, 1, 3}) ranks_[i]->expect("aborted");
  ranks_.erase(ranks_.begin() + 2);
  form("2");
  EXPECT_EQ(step(), digest);
}

TEST_F(GlooProcesses, SurvivorsOfAStoppedRankAreAbortedAndFormAgain) {
  form("1");
  const std::string digest = step();
  ranks_[1]->signal_with(SIGSTOP);
  std::this_thread::sleep_for(100ms);
  for (const int i : {0, 2, 3}) ranks_[i]->tell("abort");
  for (const int i : {0, 2, 3}) {
    EXPECT_EQ(ranks_[i]->expect("failed"), "failed aborted");
    ranks_[i]->expect("aborted");
  }
  auto stopped = std::move(ranks_[1]);
  ranks_.erase(ranks_.begin() + 1);
  form("2");
  EXPECT_EQ(step(), digest);
  // It wakes up into connections that no longer exist, and joins the next generation.
  stopped->signal_with(SIGCONT);
  stopped->expect("failed");
  for (auto& rank : ranks_) {
    rank->tell("abort");
    rank->expect("aborted");
  }
  ranks_.push_back(std::move(stopped));
  form("3");
  EXPECT_EQ(step(), digest);
}

}  // namespace
}  // namespace tenax::compute
