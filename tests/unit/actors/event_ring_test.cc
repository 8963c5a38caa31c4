#include "actors/event_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

namespace tenax::actors {
namespace {

using namespace std::chrono_literals;

TEST(EventRing, FramesEventsAsTheStandardSaysAlsoWithSeveralLines) {
  EventRing ring({}, "r");
  auto cursor = ring.join("");
  ring.publish("journal", 7, "{\"a\":1}\nsecond");
  const auto batch = ring.next(cursor, 0ms);
  EXPECT_EQ(batch.outcome, EventRing::Outcome::kFrames);
  EXPECT_EQ(batch.frames, "id: r-1-7\nevent: journal\ndata: {\"a\":1}\ndata: second\n\n");
  EXPECT_EQ(ring.next(cursor, 0ms).outcome, EventRing::Outcome::kIdle);
}

TEST(EventRing, ANewStreamSeesOnlyWhatComesAfterIt) {
  EventRing ring({}, "r");
  ring.publish("step", 1, "old");
  auto cursor = ring.join("");
  EXPECT_FALSE(cursor.lost_events);
  ring.publish("step", 2, "new");
  EXPECT_EQ(ring.next(cursor, 0ms).frames, "id: r-2-2\nevent: step\ndata: new\n\n");
}

TEST(EventRing, ResumesRightAfterTheLastEventIdEvenIfPublishersIdsRepeat) {
  EventRing ring({}, "r");
  ring.publish("step", 5, "a");  // r-1-5
  ring.publish("step", 4, "b");  // a rollback goes back
  ring.publish("step", 5, "c");
  auto cursor = ring.join("r-1-5");
  EXPECT_FALSE(cursor.lost_events);
  EXPECT_EQ(ring.next(cursor, 0ms).frames,
            "id: r-2-4\nevent: step\ndata: b\n\nid: r-3-5\nevent: step\ndata: c\n\n");
}

TEST(EventRing, AStreamThatReceivedNothingYetResumesByTheIdOfItsPlace) {
  EventRing ring({}, "r");
  const std::string id = ring.id_before(ring.join(""));
  ring.publish("step", 1, "a");
  auto cursor = ring.join(id);
  EXPECT_FALSE(cursor.lost_events);
  EXPECT_EQ(ring.next(cursor, 0ms).frames, "id: r-1-1\nevent: step\ndata: a\n\n");
}

TEST(EventRing, SaysThatEventsAreLostForIdsOfAnotherProcessTooOldOnesAndNonsense) {
  EventRing ring({.max_events = 2}, "r");
  for (int i = 1; i <= 4; ++i) ring.publish("step", i, "x");  // r-3, r-4 remain
  for (const char* id : {"q-3-3", "r-1-1", "r-5-5", "r-", "r-x-1", "r-3", "rr-3-3", "3", "r"}) {
    EXPECT_TRUE(ring.join(id).lost_events) << id;
  }
  EXPECT_FALSE(ring.join("r-2-2").lost_events);
  EXPECT_FALSE(ring.join("r-4-4").lost_events);
}

TEST(EventRing, EndsAStreamThatFellBehindInsteadOfSkippingSilently) {
  EventRing ring({.max_events = 2}, "r");
  auto cursor = ring.join("");
  for (int i = 1; i <= 3; ++i) ring.publish("step", i, "x");
  EXPECT_EQ(ring.next(cursor, 0ms).outcome, EventRing::Outcome::kLagging);
}

TEST(EventRing, IsBoundedInBytesButKeepsTheNewestEventWhateverItsSize) {
  EventRing ring({.max_bytes = 1000}, "r");
  auto cursor = ring.join("");
  ring.publish("step", 1, std::string(5000, 'x'));
  EXPECT_EQ(ring.next(cursor, 0ms).outcome, EventRing::Outcome::kFrames);
  ring.publish("step", 2, "small");
  EXPECT_TRUE(ring.join("r-0-0").lost_events);
}

TEST(EventRing, SendsOnlyTheNewestStateAndToEveryNewStream) {
  EventRing ring({.state_interval = 0ms}, "r");
  auto early = ring.join("");
  ring.publish("state", 1, "one");
  ring.publish("state", 2, "two");
  auto late = ring.join("");
  for (auto* cursor : {&early, &late}) {
    EXPECT_EQ(ring.next(*cursor, 0ms).frames, "event: state\ndata: two\n\n");
    EXPECT_EQ(ring.next(*cursor, 0ms).outcome, EventRing::Outcome::kIdle);
  }
}

TEST(EventRing, HoldsAStateBackForTheIntervalWhileOtherEventsPass) {
  EventRing ring({.state_interval = std::chrono::hours(1)}, "r");
  auto cursor = ring.join("");
  ring.publish("state", 1, "one");
  EXPECT_NE(ring.next(cursor, 0ms).frames.find("one"), std::string::npos);
  ring.publish("state", 2, "two");
  EXPECT_EQ(ring.next(cursor, 0ms).outcome, EventRing::Outcome::kIdle);
  ring.publish("step", 1, "s");
  EXPECT_EQ(ring.next(cursor, 0ms).frames, "id: r-1-1\nevent: step\ndata: s\n\n");
}

TEST(EventRing, CloseWakesAWaitingStream) {
  EventRing ring({}, "r");
  auto cursor = ring.join("");
  std::thread closer([&] { ring.close(); });
  EXPECT_EQ(ring.next(cursor, 1h).outcome, EventRing::Outcome::kClosed);
  closer.join();
  ring.publish("step", 1, "x");
  EXPECT_EQ(ring.next(cursor, 1h).outcome, EventRing::Outcome::kClosed);
}

TEST(EventRing, ManyPublishersAndStreamsSeeEveryEventOnceInOneOrder) {
  EventRing ring({}, "r");
  constexpr int kPublishers = 4;
  constexpr int kEach = 200;
  std::vector<std::string> seen(3);
  std::vector<std::thread> threads;
  for (std::string& text : seen) {
    threads.emplace_back([&ring, &text, cursor = ring.join("")]() mutable {
      for (auto batch = ring.next(cursor, 1h); batch.outcome == EventRing::Outcome::kFrames;
           batch = ring.next(cursor, 1h)) {
        text += batch.frames;
        if (cursor.next == kPublishers * kEach + 1) return;
      }
    });
  }
  for (int p = 0; p < kPublishers; ++p) {
    threads.emplace_back([&ring, p] {
      for (int i = 0; i < kEach; ++i) ring.publish("step", p * kEach + i, "x");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::count(seen[0].begin(), seen[0].end(), 'x'), kPublishers * kEach);
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(seen[0], seen[2]);
}

}  // namespace
}  // namespace tenax::actors
