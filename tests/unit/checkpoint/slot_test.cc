#include "checkpoint/slot.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "tests/unit/checkpoint/crash_child.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

class SlotTest : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_OK(unlink_segments(run_)); }

  std::string run_ = "slottest-" + std::to_string(::getpid());
  std::string prefix_ = slot_prefix(run_, "host-0", 1);
};

SlotHeader header_of(std::int64_t step, std::uint64_t bytes) {
  return {2, step, 3, 4, bytes, std::nullopt};
}

void fill(SlotPair& pair, int index, std::int64_t step, char value) {
  const auto payload = pair.begin(index);
  std::memset(payload.data(), value, payload.size());
  SlotHeader header = header_of(step, payload.size());
  header.payload_hash = hash128(payload);
  ASSERT_OK(pair.seal(index, header));
}

TEST_F(SlotTest, SealedSlotIsFoundByBranchAndStep) {
  auto pair = SlotPair::open(prefix_, 100'000);
  ASSERT_OK(pair);
  EXPECT_FALSE(pair->header(0));
  EXPECT_EQ(SlotReader::open(pair->name(0)).error().code, ErrorCode::kUnavailable);
  fill(*pair, 0, 10, 'a');
  fill(*pair, 1, 20, 'b');
  const auto reader = find_sealed_slot(prefix_, 2, 20);
  ASSERT_OK(reader);
  EXPECT_EQ(reader->header().incarnation, 4u);
  ASSERT_EQ(reader->payload().size(), 100'000u);
  EXPECT_EQ(reader->payload().back(), std::byte{'b'});
  EXPECT_OK(reader->verify());
  const auto other_branch = find_sealed_slot(prefix_, 1, 20);
  ASSERT_FALSE(other_branch);
  EXPECT_EQ(other_branch.error().code, ErrorCode::kNotFound);
  EXPECT_NE(other_branch.error().message.find("slot 0: branch 2, step 10"), std::string::npos)
      << other_branch.error().message;
}

TEST_F(SlotTest, ReaderNoticesThatTheSlotIsReused) {
  auto pair = SlotPair::open(prefix_, 4096);
  ASSERT_OK(pair);
  fill(*pair, 0, 10, 'a');
  const auto reader = SlotReader::open(pair->name(0));
  ASSERT_OK(reader);
  EXPECT_TRUE(reader->still_sealed());
  pair->begin(0);
  EXPECT_FALSE(reader->still_sealed());
  EXPECT_EQ(SlotReader::open(pair->name(0)).error().code, ErrorCode::kUnavailable);
  ASSERT_OK(pair->seal(0, header_of(10, 4096)));
  EXPECT_FALSE(reader->still_sealed()) << "the same step sealed again is not what was read";
}

TEST_F(SlotTest, AStoppedWriterThatWakesAfterItsSlotWasGivenAwayChangesNothing) {
  const int pid = spawn_crash_child({"stop", prefix_, "65536"});
  ASSERT_GT(pid, 0);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, WUNTRACED), pid);
  ASSERT_TRUE(WIFSTOPPED(status));
  ASSERT_OK(find_sealed_slot(prefix_, 2, 10));
  auto pair = SlotPair::open(prefix_, 65536, std::chrono::milliseconds(0));
  ASSERT_OK(pair);
  EXPECT_FALSE(pair->header(0)) << "what a living writer may yet change is not adopted";
  fill(*pair, 0, 20, 'n');
  fill(*pair, 1, 30, 'm');
  ::kill(pid, SIGCONT);
  EXPECT_EQ(wait_for(pid).exit_code, 0);
  for (const std::int64_t step : {20, 30}) {
    const auto reader = find_sealed_slot(prefix_, 2, step);
    ASSERT_OK(reader);
    EXPECT_OK(reader->verify());
  }
  EXPECT_FALSE(find_sealed_slot(prefix_, 2, 99));
}

TEST_F(SlotTest, NextIncarnationFindsTheContents) {
  {
    auto pair = SlotPair::open(prefix_, 4096);
    ASSERT_OK(pair);
    fill(*pair, 1, 30, 'c');
  }
  const auto pair = SlotPair::open(prefix_, 4096);
  ASSERT_OK(pair);
  ASSERT_TRUE(pair->header(1));
  EXPECT_EQ(pair->header(1)->step, 30);
  EXPECT_EQ(pair->payload(1)[17], std::byte{'c'});
}

TEST_F(SlotTest, AnotherSizeReplacesTheSegmentsWithoutHarmingAReader) {
  auto small = SlotPair::open(prefix_, 4096);
  ASSERT_OK(small);
  fill(*small, 0, 10, 'a');
  const auto reader = SlotReader::open(small->name(0));
  ASSERT_OK(reader);
  auto large = SlotPair::open(prefix_, 1 << 20);
  ASSERT_OK(large);
  EXPECT_FALSE(large->header(0));
  EXPECT_EQ(reader->payload().back(), std::byte{'a'});
  EXPECT_OK(reader->verify());
}

TEST_F(SlotTest, AnyChangedByteOfTheHeaderUnsealsIt) {
  auto pair = SlotPair::open(prefix_, 4096);
  ASSERT_OK(pair);
  fill(*pair, 0, 10, 'a');
  const std::string path = "/dev/shm/" + pair->name(0);
  for (int at = 0; at < 96; ++at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const char good = static_cast<char>(file.get());
    file.seekp(at);
    file.put(static_cast<char>(good ^ 0x10));
    file.flush();
    EXPECT_FALSE(SlotReader::open(pair->name(0))) << "byte " << at;
    file.seekp(at);
    file.put(good);
  }
  EXPECT_OK(SlotReader::open(pair->name(0)));
}

TEST_F(SlotTest, AChangedPayloadFailsVerification) {
  auto pair = SlotPair::open(prefix_, 4096);
  ASSERT_OK(pair);
  const auto payload = pair->begin(0);
  std::fill(payload.begin(), payload.end(), std::byte{1});
  SlotHeader header = header_of(1, payload.size());
  header.payload_hash = hash128(payload);
  ASSERT_OK(pair->seal(0, header));
  payload[1234] = std::byte{2};
  const auto reader = SlotReader::open(pair->name(0));
  ASSERT_OK(reader);
  EXPECT_EQ(reader->verify().error().code, ErrorCode::kDataLoss);
}

TEST_F(SlotTest, CutSegmentIsRefused) {
  auto pair = SlotPair::open(prefix_, 8192);
  ASSERT_OK(pair);
  fill(*pair, 0, 10, 'a');
  const std::string path = "/dev/shm/" + pair->name(0);
  ASSERT_EQ(::truncate(path.c_str(), 4096 + 4096), 0);
  EXPECT_EQ(SlotReader::open(pair->name(0)).error().code, ErrorCode::kDataLoss);
  ASSERT_EQ(::truncate(path.c_str(), 100), 0);
  EXPECT_EQ(SlotReader::open(pair->name(0)).error().code, ErrorCode::kDataLoss);
}

TEST_F(SlotTest, SealRefusesMoreBytesThanTheSlotHas) {
  auto pair = SlotPair::open(prefix_, 4096);
  ASSERT_OK(pair);
  EXPECT_EQ(pair->seal(0, header_of(1, 4097)).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(SlotTest, SweepTakesTheSegmentsOfThisRunOnly) {
  const std::string other = slot_prefix(run_ + "-b", "a", 0);
  ASSERT_OK(SlotPair::open(prefix_, 4096));
  ASSERT_OK(SlotPair::open(other, 4096));
  EXPECT_EQ(list_segments(run_).size(), 2u);
  EXPECT_EQ(list_segments(run_)[0].bytes, 8192u);
  EXPECT_EQ(*unlink_segments(run_), 2);
  EXPECT_TRUE(list_segments(run_).empty());
  EXPECT_EQ(list_segments(run_ + "-b").size(), 2u);
  EXPECT_OK(unlink_pair(other));
  EXPECT_TRUE(list_segments(run_ + "-b").empty());
}

TEST_F(SlotTest, ASegmentIsUnheldOnlyWhenItsWriterIsGone) {
  {
    auto pair = SlotPair::open(prefix_, 4096);
    ASSERT_OK(pair);
    const SlotPair moved = *std::move(pair);
    EXPECT_FALSE(unlink_unheld(moved.name(0)));
    EXPECT_FALSE(unlink_unheld(moved.name(1)));
    EXPECT_EQ(list_segments(run_).size(), 2u);
  }
  EXPECT_TRUE(unlink_unheld(prefix_ + "-0"));
  EXPECT_FALSE(unlink_unheld(prefix_ + "-0"));
  EXPECT_EQ(list_segments(run_).size(), 1u);
}

TEST_F(SlotTest, NoSweepTakesASegmentFromAWriterThatIsJustOpeningIt) {
  std::atomic<bool> stop{false};
  std::thread sweeper([&] {
    while (!stop) {
      for (const SegmentInfo& segment : list_segments(run_)) unlink_unheld(segment.name);
    }
  });
  for (int i = 0; i < 300; ++i) {
    auto pair = SlotPair::open(prefix_, 4096);
    ASSERT_OK(pair);
    fill(*pair, 0, i, 'a');
    const auto reader = find_sealed_slot(prefix_, 2, i);
    EXPECT_OK(reader);
  }
  stop = true;
  sweeper.join();
}

TEST_F(SlotTest, NamesOfDifferentOwnersNeverCoincide) {
  EXPECT_NE(slot_prefix("a-b", "c", 0), slot_prefix("a", "b-c", 0));
  EXPECT_NE(slot_prefix("a", "b", 0), slot_prefix("a", "b", 1));
  EXPECT_EQ(slot_prefix("a/..", "b", 0).find('/'), std::string::npos);
}

TEST_F(SlotTest, ContentsSurviveTheDeathOfTheWriter) {
  const ChildResult child = run_crash_child({"slot", prefix_, "65536", "77"});
  EXPECT_EQ(child.signal, SIGKILL);
  const auto reader = find_sealed_slot(prefix_, 2, 77);
  ASSERT_OK(reader);
  EXPECT_OK(reader->verify());
  EXPECT_TRUE(std::all_of(reader->payload().begin(), reader->payload().end(),
                          [](std::byte b) { return b == std::byte{77}; }));
  // The child died while it wrote the other one.
  const auto pair = SlotPair::open(prefix_, 65536);
  ASSERT_OK(pair);
  EXPECT_FALSE(pair->header(1));
}

TEST_F(SlotTest, TooMuchMemoryIsAnErrorAndNotASignal) {
  const auto pair = SlotPair::open(prefix_, std::uint64_t{1} << 42);
  ASSERT_FALSE(pair);
  EXPECT_EQ(pair.error().code, ErrorCode::kNoSpace) << pair.error().message;
}

}  // namespace
}  // namespace tenax::checkpoint
