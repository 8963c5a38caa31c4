#include "actors/trace_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace tenax::actors {
namespace {

using compute::TraceEvent;
using compute::TraceKind;

class TraceFileTest : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(path_.parent_path()); }
  static std::vector<TraceEvent> events(std::int64_t step, int count) {
    std::vector<TraceEvent> out;
    for (int i = 0; i < count; ++i) {
      TraceEvent e;
      e.step = step;
      e.microbatch = i;
      e.index = i - 1;
      e.bytes = static_cast<std::uint64_t>(i) << 33;
      e.kind = TraceKind::kForward;
      e.begin = Time(Duration(1000 * step + i));
      e.end = Time(Duration(1000 * step + i + 1));
      out.push_back(e);
    }
    return out;
  }
  const std::filesystem::path path_ = std::filesystem::temp_directory_path() /
                                      ("tenax_trace." + std::to_string(getpid())) / "rank-0.trace";
};

TEST_F(TraceFileTest, IsReadBackAndGoesOnBehindWhatAnotherProcessWrote) {
  for (std::uint32_t generation = 1; generation <= 2; ++generation) {
    auto file = TraceFile::open(path_);
    ASSERT_TRUE(file) << file.error().message;
    ASSERT_TRUE(file->append(generation, events(10 + generation, 70)));
  }
  const auto records = read_trace(path_);
  ASSERT_TRUE(records);
  ASSERT_EQ(records->size(), 140u);
  EXPECT_EQ(records->front().generation, 1u);
  EXPECT_EQ(records->front().event.step, 11);
  EXPECT_EQ(records->back().generation, 2u);
  EXPECT_EQ(records->back().event.microbatch, 69);
  EXPECT_EQ(records->back().event.index, 68);
  EXPECT_EQ(records->back().event.bytes, std::uint64_t{69} << 33);
  EXPECT_EQ(records->back().event.begin, Time(Duration(12069)));
  EXPECT_EQ(records->back().event.end, Time(Duration(12070)));
}

TEST_F(TraceFileTest, KeepsTheNewestAndNeverGrows) {
  auto file = TraceFile::open(path_);
  ASSERT_TRUE(file);
  for (std::int64_t step = 1; step <= 1400; ++step) ASSERT_TRUE(file->append(1, events(step, 100)));
  const auto records = read_trace(path_);
  ASSERT_TRUE(records);
  EXPECT_EQ(records->size(), TraceFile::kRecords);
  EXPECT_EQ(records->back().event.step, 1400);
  EXPECT_EQ(records->front().event.step, 1400 - static_cast<int>(TraceFile::kRecords) / 100);
  EXPECT_LE(std::filesystem::file_size(path_), TraceFile::kRecords * 64);
}

TEST_F(TraceFileTest, LeavesOutRecordsThatAreNotWhole) {
  auto file = TraceFile::open(path_);
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->append(1, events(5, 3)));
  std::fstream damaged(path_, std::ios::in | std::ios::out | std::ios::binary);
  damaged.seekp(64 + 10);
  damaged.put('x');
  damaged.close();
  const auto records = read_trace(path_);
  ASSERT_TRUE(records);
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ(records->back().event.microbatch, 2);
}

}  // namespace
}  // namespace tenax::actors
