#include "compute/flight_recorder.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "compute/step_trace.h"

namespace tenax::compute {
namespace {

class StepClock final : public Clock {
 public:
  Time now() const override { return Time(std::chrono::milliseconds(++ticks_)); }

 private:
  mutable std::atomic<int> ticks_{0};
};

TEST(FlightRecorder, KeepsTheLastEntriesInOrder) {
  StepClock clock;
  FlightRecorder recorder(3, clock);
  for (int i = 0; i < 5; ++i) recorder.post("send", i, 10u * i, 7);
  const auto entries = recorder.snapshot();
  ASSERT_EQ(entries.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(entries[i].sequence, 3u + i);
    EXPECT_EQ(entries[i].peer, 2 + i);
    EXPECT_EQ(entries[i].bytes, 10u * (2 + i));
    EXPECT_EQ(entries[i].state, FlightState::kPosted);
  }
}

TEST(FlightRecorder, IgnoresTheEndOfAnOverwrittenEntry) {
  StepClock clock;
  FlightRecorder recorder(2, clock);
  const auto first = recorder.post("recv", 1, 8, 0);
  recorder.post("recv", 2, 8, 0);
  const auto third = recorder.post("recv", 3, 8, 0);
  recorder.finish(first, FlightState::kFailed);
  recorder.finish(third, FlightState::kDone);
  const auto entries = recorder.snapshot();
  EXPECT_EQ(entries[0].state, FlightState::kPosted);
  EXPECT_EQ(entries[1].state, FlightState::kDone);
  EXPECT_EQ(entries[1].end - entries[1].start, std::chrono::milliseconds(2));
}

TEST(FlightRecorder, MarksTransfersWithTheOutermostCollective) {
  StepClock clock;
  FlightRecorder recorder(16, clock);
  {
    CollectiveRecord outer(&recorder, "broadcast", 100, 1);
    recorder.post("send", 1, 50, 1);
    {
      CollectiveRecord inner(&recorder, "all_gather", 100, 1);
      recorder.post("recv", 2, 50, 1);
      inner.succeed();
    }
    recorder.post("send", 3, 50, 1);
  }
  recorder.post("send", 4, 50, 1);
  const auto entries = recorder.snapshot();
  ASSERT_EQ(entries.size(), 6u);
  EXPECT_EQ(entries[0].operation, "broadcast");
  EXPECT_EQ(entries[0].state, FlightState::kFailed);  // nobody said that it succeeded
  EXPECT_EQ(entries[1].within, "broadcast");
  EXPECT_EQ(entries[2].operation, "all_gather");
  EXPECT_EQ(entries[2].state, FlightState::kDone);
  EXPECT_EQ(entries[3].within, "broadcast");
  EXPECT_EQ(entries[4].within, "broadcast");
  EXPECT_EQ(entries[5].within, "");
}

TEST(FlightRecorder, WaitingIsAStateOfWhatHasNotEnded) {
  StepClock clock;
  FlightRecorder recorder(4, clock);
  const auto first = recorder.post("recv", 1, 8, 0);
  const auto second = recorder.post("recv", 2, 8, 0);
  recorder.finish(second, FlightState::kDone);
  recorder.wait(first);
  recorder.wait(second);
  const auto entries = recorder.snapshot();
  EXPECT_EQ(entries[0].state, FlightState::kWaiting);
  EXPECT_EQ(entries[1].state, FlightState::kDone);
}

TEST(FlightRecorder, TransfersThatEndedAreEventsOfTheTrace) {
  StepClock clock;
  StepTrace trace(clock, 16);
  FlightRecorder recorder(4, clock);
  recorder.set_trace(&trace);
  {
    CollectiveRecord collective(&recorder, "all_gather", 100, 1);
    const auto recv = recorder.post("recv", 3, 50, 1);
    const auto send = recorder.post("send", 2, 60, 1);
    recorder.finish(send, FlightState::kDone);
    recorder.finish(recv, FlightState::kDone);
  }
  ASSERT_EQ(trace.events().size(), 2u) << "the collective itself is no transfer";
  const auto entries = recorder.snapshot();
  EXPECT_EQ(trace.events()[0].kind, TraceKind::kSend);
  EXPECT_EQ(trace.events()[0].index, 2);
  EXPECT_EQ(trace.events()[1].kind, TraceKind::kRecv);
  EXPECT_EQ(trace.events()[1].index, 3);
  EXPECT_EQ(trace.events()[1].bytes, 50u);
  EXPECT_EQ(trace.events()[1].begin, entries[1].start);
  EXPECT_EQ(trace.events()[1].end, entries[1].end);
}

TEST(StepTrace, KernelsLeaveRoomForActions) {
  StepClock clock;
  StepTrace trace(clock, 8);
  for (int i = 0; i < 20; ++i) KernelSpan span(&trace, TraceKind::kNorm, i);
  EXPECT_EQ(trace.events().size(), 6u);
  for (int i = 0; i < 20; ++i) TraceSpan span(&trace, TraceKind::kForward, i);
  EXPECT_EQ(trace.events().size(), 8u);
  trace.begin_step(2);
  trace.record_details(false);
  { KernelSpan span(&trace, TraceKind::kNorm); }
  EXPECT_TRUE(trace.events().empty());
}

TEST(FlightRecorder, SnapshotsWhileAnotherThreadRecords) {
  SystemClock clock;
  FlightRecorder recorder(64, clock);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) recorder.finish(recorder.post("send", 1, 4, 2), FlightState::kDone);
  });
  for (int i = 0; i < 200; ++i) {
    const auto entries = recorder.snapshot();
    for (std::size_t k = 1; k < entries.size(); ++k) {
      ASSERT_EQ(entries[k].sequence, entries[k - 1].sequence + 1);
    }
  }
  stop = true;
  writer.join();
}

TEST(FlightRecorder, DescribesWhoIsWaitedFor) {
  FlightEntry entry{.sequence = 17,
                    .operation = "recv",
                    .within = "all_gather",
                    .peer = 2,
                    .bytes = 4096,
                    .tag = 5,
                    .state = FlightState::kPosted,
                    .start = {},
                    .end = {}};
  EXPECT_EQ(describe(entry),
            "#17 recv of 4096 bytes from rank 2, tag 0x5, in all_gather: posted at "
            "1970-01-01T00:00:00.000Z");
}

}  // namespace
}  // namespace tenax::compute
