#include "scheduler/run_json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "scheduler/run_metrics.h"

namespace tenax::scheduler {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

StepReport report(std::int64_t step, std::uint64_t branch = 1) {
  StepReport r;
  r.branch = branch;
  r.step = step;
  r.loss = kNan;
  r.grad_norm = kInf;
  r.learning_rate = 1e-4;
  r.tokens = 7;
  r.position_begin = 8;
  r.position_end = 9;
  r.update = UpdateKind::kSkippedNonFinite;
  r.eval_loss = -kInf;
  r.has_eval = true;
  r.seconds = 0.25;
  r.snapshot_seconds = 0.125;
  r.replica_losses = {kNan, 2};
  return r;
}

RankState held() {
  RankState s;
  s.has_weights = true;
  s.branch = 2;
  s.last_applied = 11;
  s.gradients_ready = 12;
  s.verdict_known = true;
  s.verdict = report(12);
  s.reports = {report(10), report(11)};
  s.rank = 3;
  s.degrees = {2, 1, 2};
  return s;
}

Plan plan() {
  Plan p{3,  2, 11,   100,        {2, 1, 1}, {{SourceKind::kMemory, -1}, {SourceKind::kPeer, 0}},
         77, 1, true, report(11), {{4, 8}},  {{1, 5, 0.5}},
         {}};
  return p;
}

std::vector<Event> events() {
  return {SupervisorStarted{2, 100, {"a: 1 -> 2"}, {5, 6}, {0, 1}},
          AgentJoined{1, 2, 3, "host", 4, {{0, 5, 6, -1, 0, false}, {1, 7, 8, 3, 9, true}}},
          AgentLost{1, 2, "silent"},
          WorkerUp{1, 2, 3, 4},
          WorkerExited{1, 2, 3, "killed by signal 9"},
          RankFormed{1, 2, 3, "memory", 0.5, 9, 0.25, {{"memory", 12}}, "a slot"},
          RankStopped{1, 2, held(), "abort", 9},
          RankFinished{1, 2, 3, FinishCause::kStopped},
          StepReported{4, report(5)},
          ShardWritten{1, 2, 3, 4, 5, 6, 0.5, "digest"},
          ShardFailed{1, 2, 3, 4, 5, "disk full"},
          CommitEnded{1, true, "", 100},
          VerifyEnded{1, false, "chunk 3"},
          StopRequested{StopKind::kPreempt, "signal 15"},
          TimerFired{},
          AgentAsked{"token", "host", 7, 2},
          DrainRequested{1, "tenax drain"},
          ScaleRequested{{3, 1, 2}, "tenax scale"},
          ShardHashed{1, 2, 3, 4, "hash"},
          PaceChanged{1, 2, true, 1.75, "slow"},
          RollbackRequested{4, 6, 8, 0.5, 100, "tenax rollback"},
          ReplayEnded{2, 11, 12, 1, "replica 1 differs", "no", true},
          DeviceReported{1, 2, 3, DeviceTrouble::kCommunication, "NCCL: ...", true}};
}

std::vector<Command> commands() {
  return {SpawnAgent{1, 2},
          SpawnWorker{1, 2, 3},
          KillWorker{1, 2, 3, "why"},
          KillAgent{1, 2, "why"},
          AbortGeneration{3, 11, "why"},
          StartGeneration{plan(), {{0, 1, 2}, {1, 0, 3}}},
          IssueCommand{{4, WorkerCommandKind::kSnapshot}},
          CommitCheckpoint{1, 2, 3, 4},
          DiscardCheckpoint{1, 2, 3, "why"},
          VerifyCheckpoint{1},
          DeleteCheckpoint{1, "why"},
          Note{Severity::kWarning, "text with \"quotes\", \n lines and \x01"},
          Finish{5, "why"},
          AdmitAgent{1, 2, "token", "why not"},
          ReleaseAgent{1, 2, "drained"},
          SuspectDevice{1, 0, 2, "why"},
          KeepSamples{1, 5, 9, "branch1-step9"},
          ReplaySteps{2, 77, 10, 12}};
}

TEST(RunJson, EveryEventAndCommandSurvivesTheJournal) {
  for (const Event& event : events()) {
    const JournalEntry entry{7, Time(Duration(1234567890123456789)), 2, 3, event, commands()};
    const std::string text = to_json(entry);
    const auto read = journal_entry_from_json(text);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(to_json(*read), text);
    EXPECT_EQ(read->event.index(), event.index());
    EXPECT_EQ(read->time, entry.time);
    ASSERT_EQ(read->commands.size(), entry.commands.size());
    EXPECT_EQ(std::get<StartGeneration>(read->commands[5]).plan.sources, plan().sources);
  }
}

TEST(RunJson, NumbersThatAreNotFiniteSurvive) {
  const JournalEntry entry{1, {}, 1, 1, StepReported{1, report(5)}, {}};
  const auto read = journal_entry_from_json(to_json(entry));
  ASSERT_TRUE(read);
  const StepReport r = std::get<StepReported>(read->event).report;
  EXPECT_TRUE(std::isnan(r.loss));
  EXPECT_EQ(r.grad_norm, kInf);
  EXPECT_EQ(r.eval_loss, -kInf);
  EXPECT_TRUE(r.has_eval);
  EXPECT_EQ(r.update, UpdateKind::kSkippedNonFinite);
}

TEST(RunJson, DoublesSurviveBitForBit) {
  for (const double v : {0.1, 1.0 / 3, 2.2250738585072014e-308, 4.9e-324, 1.7976931348623157e308}) {
    StepReport r = report(1);
    r.loss = v;
    const auto read =
        journal_entry_from_json(to_json(JournalEntry{1, {}, 1, 1, StepReported{1, r}, {}}));
    ASSERT_TRUE(read);
    EXPECT_EQ(std::get<StepReported>(read->event).report.loss, v);
  }
}

TEST(RunJson, TextsThatAreNotUtf8AreStillWritten) {
  const JournalEntry entry{1, {}, 1, 1, AgentLost{0, 1, "name \xff\xfe"}, {}};
  EXPECT_TRUE(journal_entry_from_json(to_json(entry)));
}

TEST(RunJson, ACutOrChangedEntryIsAnErrorAndNeverACrash) {
  const std::string text =
      to_json(JournalEntry{7, {}, 2, 3, RankStopped{1, 2, held(), "abort", 9}, commands()});
  for (std::size_t n = 0; n < text.size(); n += 7) {
    EXPECT_FALSE(journal_entry_from_json(text.substr(0, n)));
    std::string flipped = text;
    flipped[n] = static_cast<char>(flipped[n] ^ 0x15);
    static_cast<void>(journal_entry_from_json(flipped));
  }
  EXPECT_FALSE(journal_entry_from_json("{}"));
  EXPECT_FALSE(run_state_from_json("[]"));
}

TEST(RunMetrics, ABranchsStepIsTakenOnceAndReplaysAreNot) {
  RunMetrics metrics;
  const auto entry = [](Event e, std::vector<Command> c = {}) {
    return JournalEntry{1, {}, 1, 1, std::move(e), std::move(c)};
  };
  EXPECT_EQ(metrics.add(entry(StepReported{1, report(1, 0)})).size(), 1u);
  EXPECT_EQ(metrics.add(entry(StepReported{1, report(2, 0)})).size(), 1u);
  EXPECT_TRUE(metrics.add(entry(StepReported{1, report(2, 0)})).empty());
  RankState left;
  left.reports = {report(2, 0), report(3, 0)};
  EXPECT_EQ(metrics.add(entry(RankStopped{0, 1, left, "", 0})).size(), 1u);
  Plan back = plan();
  back.branch = 1;
  back.step = 1;
  static_cast<void>(metrics.add(entry(TimerFired{}, {StartGeneration{back, {}}})));
  EXPECT_TRUE(metrics.add(entry(StepReported{2, report(1, 1)})).empty());
  EXPECT_EQ(metrics.add(entry(StepReported{2, report(2, 1)})).size(), 1u);
  EXPECT_EQ(metrics.newest()->branch, 1u);
  EXPECT_DOUBLE_EQ(metrics.useful_seconds(), 4 * 0.25);
}

}  // namespace
}  // namespace tenax::scheduler
