// Disks that fill up and bytes that change: training goes on or ends with a clear message, nothing
// hangs, no damaged byte is loaded (C2, C4).
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/support/run_history.h"
#include "tests/support/run_under_test.h"

namespace tenax::testing {

namespace {

namespace fs = std::filesystem;

/// Mounts a tmpfs that only this process and its children see. Empty, or the reason why not.
std::string mount_small_disk(const fs::path& folder, const std::string& options) {
  fs::create_directories(folder);
  if (::unshare(CLONE_NEWNS) != 0) return std::string("unshare: ") + std::strerror(errno);
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return std::string("make mounts private: ") + std::strerror(errno);
  if (::mount("tmpfs", folder.c_str(), "tmpfs", 0, options.c_str()) != 0)
    return std::string("mount a tmpfs: ") + std::strerror(errno);
  return {};
}

void fill(const fs::path& file) {
  std::ofstream out(file, std::ios::binary);
  const std::string block(64 << 10, 'x');
  while (out.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
  }
}

/// The files with tensors' bytes: those of the newest checkpoint come last.
std::vector<fs::path> shard_files(const RunUnderTest& run) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(run.directory() / "chunks")) {
    if (entry.path().extension() == ".chunks") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

void flip_a_byte(const fs::path& file) {
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  // The first byte of a block is never padding.
  const auto at = static_cast<std::streamoff>(fs::file_size(file) / 2 / 4096 * 4096);
  f.seekg(at);
  const char byte = static_cast<char>(f.get() ^ 0x10);
  f.seekp(at);
  f.put(byte);
}

}  // namespace

TEST(DamagedCheckpoint, IsQuarantinedAndThePreviousOneIsTaken) {
  const std::string hash = undisturbed_hash(shapes().front(), long_run());
  RunUnderTest run(shapes().front(), long_run());
  run.start();
  ASSERT_TRUE(run.wait_for_step(22));
  ::kill(run.supervisor(), SIGINT);
  ASSERT_EQ(run.wait(), Ended({7, 0})) << run.output();
  const auto checkpoints = run.json_lines("checkpoint list");
  ASSERT_GE(checkpoints.size(), 2u);
  const std::int64_t damaged = checkpoints.back().at("step");
  const std::int64_t previous = checkpoints[checkpoints.size() - 2].at("step");
  flip_a_byte(shard_files(run).back());
  EXPECT_EQ(run.tenax({"checkpoint", "verify", "--full", run.directory().string()}).ended,
            Ended({4, 0}));

  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  const RunHistory history(run);
  EXPECT_GE(history.count("of step " + std::to_string(damaged) + " is quarantined"), 1);
  EXPECT_GE(history.count("go back to the checkpoint of step " + std::to_string(previous)), 1);
}

TEST(DamagedCheckpoint, FilesThatAreGoneAreToldAndNothingHangs) {
  RunUnderTest run(shapes().front(), long_run());
  run.start();
  ASSERT_TRUE(run.wait_for_step(22));
  ::kill(run.supervisor(), SIGINT);
  ASSERT_EQ(run.wait(), Ended({7, 0})) << run.output();
  const fs::path gone = shard_files(run).back();
  fs::remove(gone);
  run.resume();
  const Ended ended = run.wait();
  // Either the run is put right from an older checkpoint, or it is refused with the file's name.
  if (ended == Ended({0, 0})) {
    EXPECT_EQ(run.hash(), undisturbed_hash(shapes().front(), long_run()));
  } else {
    EXPECT_EQ(ended, Ended({4, 0})) << run.output();
    EXPECT_NE(run.output().find(gone.stem().string()), std::string::npos) << run.output();
  }
}

TEST(FullDisk, EndsTheRunWithAClearMessageAndItGoesOnWhenThereIsRoom) {
  const std::string hash = undisturbed_hash(shapes().front());
  RunUnderTest run;
  if (const std::string why = mount_small_disk(run.folder() / "disk", "size=24m"); !why.empty())
    GTEST_SKIP() << why;
  run.set_directory(run.folder() / "disk" / "run");
  run.start();
  ASSERT_TRUE(run.wait_for_step(8));
  const fs::path filler = run.folder() / "disk" / "filler";
  fill(filler);
  ASSERT_EQ(run.wait(), Ended({4, 0})) << run.output();
  EXPECT_NE(run.output().find("No space left"), std::string::npos) << run.output();
  EXPECT_TRUE(run.processes().empty());
  EXPECT_TRUE(run.segments().empty());
  fs::remove(filler);
  run.resume();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
}

TEST(FullDisk, IsToldAtTheStart) {
  RunUnderTest run;
  if (const std::string why = mount_small_disk(run.folder() / "disk", "size=24m"); !why.empty())
    GTEST_SKIP() << why;
  fill(run.folder() / "disk" / "filler");
  run.set_directory(run.folder() / "disk" / "run");
  run.start();
  EXPECT_EQ(run.wait(), Ended({4, 0})) << run.output();
  EXPECT_NE(run.output().find("No space left"), std::string::npos) << run.output();
}

TEST(ReadOnlyDisk, IsToldAtTheStart) {
  RunUnderTest run;
  if (const std::string why = mount_small_disk(run.folder() / "disk", "ro,size=1m"); !why.empty())
    GTEST_SKIP() << why;
  run.set_directory(run.folder() / "disk" / "run");
  run.start();
  EXPECT_EQ(run.wait(), Ended({4, 0})) << run.output();
  EXPECT_NE(run.output().find("Read-only file system"), std::string::npos) << run.output();
}

}  // namespace tenax::testing
