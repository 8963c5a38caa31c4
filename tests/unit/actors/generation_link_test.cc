#include "actors/generation_link.h"

#include <gtest/gtest.h>

#include <thread>

namespace tenax::actors {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;

TEST(GenerationLink, AWaitEndsWhenTheValueIsDelivered) {
  std::vector<std::string> published;
  GenerationLink link(3, [&](const std::string& key, const std::string& value) {
    published.push_back(key + "=" + value);
  });
  ASSERT_TRUE(link.publish("a", "1"));
  EXPECT_EQ(published, std::vector<std::string>{"a=1"});
  std::thread actor([&] { link.deliver("b", "2"); });
  EXPECT_EQ(link.wait("b", minutes(1)).value(), "2");
  actor.join();
  EXPECT_EQ(link.wait("b", minutes(1)).value(), "2") << "and stays";
}

TEST(GenerationLink, AWaitForWhatNobodyPublishesTimesOut) {
  GenerationLink link(3, {});
  EXPECT_EQ(link.wait("a", milliseconds(1)).error().code, ErrorCode::kTimeout);
}

TEST(GenerationLink, AnAbortEndsWaitsAndKeepsItsFirstReason) {
  GenerationLink link(3, [](const std::string&, const std::string&) { FAIL(); });
  std::thread actor([&] {
    link.abort("first");
    link.abort("second");
  });
  const auto value = link.wait("a", minutes(1));
  actor.join();
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().code, ErrorCode::kAborted);
  EXPECT_EQ(value.error().message, "first");
  EXPECT_TRUE(link.aborted());
  EXPECT_TRUE(link.stop_token().stop_requested());
  EXPECT_EQ(link.publish("a", "1").error().code, ErrorCode::kAborted);
}

TEST(GenerationLink, CommandsCountOnlyWithoutGaps) {
  GenerationLink link(3, {});
  EXPECT_EQ(link.newest_command(), 0);
  link.command({2, WorkerCommandKind::kSnapshot});
  EXPECT_EQ(link.newest_command(), 0);
  link.command({1, WorkerCommandKind::kStop});
  link.command({1, WorkerCommandKind::kStop});
  EXPECT_EQ(link.newest_command(), 2);
  EXPECT_EQ(link.command_kind(1), WorkerCommandKind::kStop);
  EXPECT_EQ(link.command_kind(2), WorkerCommandKind::kSnapshot);
}

TEST(SlotGate, IsFreeAgainOnlyWhenItsOwnSnapshotIsClosed) {
  SlotGate gate;
  EXPECT_TRUE(gate.free());
  gate.sealed(1, 10, 0);
  EXPECT_FALSE(gate.free());
  gate.closed(0, 10, true);
  gate.closed(1, 9, true);
  EXPECT_FALSE(gate.free());
  gate.closed(1, 10, true);
  EXPECT_TRUE(gate.free());
}

TEST(SlotGate, NeverOffersTheSlotOfTheNewestCommittedSnapshot) {
  SlotGate gate;
  EXPECT_EQ(gate.next_index(), 0);
  gate.sealed(0, 5, 0);
  gate.closed(0, 5, true);
  EXPECT_EQ(gate.next_index(), 1);
  gate.sealed(0, 10, 1);
  gate.closed(0, 10, false);
  EXPECT_EQ(gate.next_index(), 1) << "a snapshot that was given up may be overwritten";
  gate.sealed(0, 15, 1);
  gate.closed(0, 15, true);
  EXPECT_EQ(gate.next_index(), 0);
}

TEST(SlotGate, ASnapshotOfTheGenerationBeforeMayStillBeCommitted) {
  SlotGate gate;
  gate.sealed(0, 5, 0);
  gate.reset();
  EXPECT_TRUE(gate.free());
  gate.closed(0, 5, true);
  EXPECT_EQ(gate.next_index(), 1);
}

TEST(SlotGate, AWaitEndsByClosingOrByTheStop) {
  SlotGate gate;
  gate.sealed(0, 5, 0);
  std::thread actor([&] { gate.closed(0, 5, true); });
  EXPECT_TRUE(gate.wait_free({}));
  actor.join();
  gate.sealed(0, 10, 1);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_FALSE(gate.wait_free(stop.get_token()));
}

}  // namespace
}  // namespace tenax::actors
