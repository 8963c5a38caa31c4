#include "scheduler/space_forecast.h"

#include <gtest/gtest.h>

#include "scheduler/run_controller.h"
#include "scheduler/run_json.h"

namespace tenax::scheduler {
namespace {

SpaceFacts facts(std::uint64_t free_checkpoints) {
  SpaceFacts f;
  f.free_bytes = free_checkpoints * 100 + 99;
  f.checkpoint_bytes = 100;
  f.num_checkpoints = 1;
  f.keep_last = 3;
  f.keep_verified = 3;
  f.interval = 10;
  f.step = 10;
  f.total_steps = 1000;
  return f;
}

TEST(SpaceForecast, RetentionThatFitsNeverFillsTheDisk) {
  // One is there; five more and the one being written beside them are the most there can be.
  EXPECT_FALSE(forecast_space(facts(6)).fills);
  const SpaceForecast forecast = forecast_space(facts(5));
  EXPECT_TRUE(forecast.fills);
  EXPECT_EQ(forecast.saves_left, 5);
  EXPECT_EQ(forecast.full_at_step, 70);
}

TEST(SpaceForecast, AFullStoreInItsSteadyStateNeedsNothingMore) {
  SpaceFacts f = facts(0);
  f.num_checkpoints = 7;  // six and the one just written
  EXPECT_FALSE(forecast_space(f).fills);
}

TEST(SpaceForecast, WhatIsKeptForGoodFillsTheDiskAtItsStep) {
  SpaceFacts f = facts(20);
  f.keep_every = 100;
  // By then 6 passing ones, one being written and 14 + 1 for good would be needed with one there.
  f.total_steps = 100'000;
  const SpaceForecast forecast = forecast_space(f);
  ASSERT_TRUE(forecast.fills);
  EXPECT_NEAR(static_cast<double>(forecast.full_at_step), 1500, 20);
  f.total_steps = 1000;
  EXPECT_FALSE(forecast_space(f).fills) << "the run ends before";
}

TEST(SpaceForecast, NothingIsForetoldWithoutAnInterval) {
  SpaceFacts f = facts(0);
  f.interval = 0;
  EXPECT_FALSE(forecast_space(f).fills);
}

TEST(SpaceForecast, WarnsAtHalvingDistances) {
  int warnings = 0;
  for (std::int64_t left = 200; left >= 0; --left)
    warnings += worth_saying({true, left, 0}) ? 1 : 0;
  EXPECT_EQ(warnings, 8);  // 64, 32, 16, 8, 4, 2, 1, 0
  EXPECT_FALSE(worth_saying({false, 0, 0}));
}

TEST(RunController, ImportedWeightsAreTheRunsFirstCheckpointAndStayForGood) {
  ControllerOptions options;
  options.keep_last = 1;
  const RunController controller(options);
  RunState state;
  const CheckpointImported imported{1, 5000, "elsewhere"};
  const auto commands = controller.decide(state, imported, Time{});
  ASSERT_EQ(commands.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<Note>(commands[0]));
  ASSERT_EQ(state.checkpoints.size(), 1u);
  EXPECT_EQ(newest_checkpoint(state, 0)->id, 1u);
  EXPECT_TRUE(controller.decide(state, imported, Time{}).empty()) << "a replay changes nothing";
  EXPECT_EQ(state.checkpoints.size(), 1u);

  for (std::int64_t step = 10; step <= 50; step += 10) {
    CheckpointInfo c;
    c.id = static_cast<std::uint64_t>(step);
    c.step = step;
    c.committed = true;
    state.checkpoints.push_back(c);
  }
  state.phase = Phase::kFinished;
  const auto pruned = controller.decide(state, PruneRequested{1, {20}, "test"}, Time{});
  std::vector<std::uint64_t> left;
  for (const CheckpointInfo& c : state.checkpoints) left.push_back(c.id);
  EXPECT_EQ(left, (std::vector<std::uint64_t>{1, 20, 50}));
  EXPECT_EQ(pruned.size(), 4u) << "three deletions and a note";
}

TEST(RunController, PruningKeepsTheNewestVerifiedAndItsPredecessor) {
  const RunController controller(ControllerOptions{});
  RunState state;
  for (std::int64_t step = 10; step <= 60; step += 10) {
    CheckpointInfo c;
    c.id = static_cast<std::uint64_t>(step);
    c.step = step;
    c.committed = true;
    c.verified = step == 20 || step == 30;
    state.checkpoints.push_back(c);
  }
  controller.decide(state, PruneRequested{1, {}, "test"}, Time{});
  std::vector<std::uint64_t> left;
  for (const CheckpointInfo& c : state.checkpoints) left.push_back(c.id);
  EXPECT_EQ(left, (std::vector<std::uint64_t>{20, 30, 60}));
}

TEST(RunJson, AnOlderJournalsCommitHasNoFreeBytes) {
  JournalEntry entry;
  entry.event = CommitEnded{7, true, "", 11, 13};
  std::string text = to_json(entry);
  EXPECT_EQ(std::get<CommitEnded>(journal_entry_from_json(text)->event).free_bytes, 13u);
  text.replace(text.find(R"("free_bytes":13,)"), 16, "");
  const auto read = journal_entry_from_json(text);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(std::get<CommitEnded>(read->event).free_bytes, 0u);
}

}  // namespace
}  // namespace tenax::scheduler
